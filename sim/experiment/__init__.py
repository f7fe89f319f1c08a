"""From a question to its answer: runs, plans, verification, calibration, and their results.

Imports everything but `plots` and `commands`.
"""
