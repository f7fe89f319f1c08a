"""From a question to its answer: runs, plans, verification, calibration, and their results.

`run` makes `measurements` of a scenario and `results` of them, each a `point` (`measure`), with the data
of figures (`views`); `cells` of maps and of a `sweep` are measured by workers, their points lie in a `spool`,
and tables have `columns`; `fronts` spreads points over a planned front, `choose` finds a plan, `fits` judges a
job on many devices, `search` spreads it, `joint_plan` plans what a compiler captured, `verify` and `verify_torch` hold
predictions against execution, `calibrate` measures this machine, `show` is what notebooks
get. Imports everything but `plots` and `commands`.
"""

__all__ = [
    "calibrate",
    "choose",
    "fits",
    "fronts",
    "joint_plan",
    "largest",
    "measurements",
    "point",
    "results",
    "run",
    "search",
    "show",
    "verify",
    "verify_torch",
]
