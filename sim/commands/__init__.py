"""Commands that a person types: a module each, which registers itself with `sim.commands.command.app`; may import all.

`sim --help` imports every module of this package, so that they leave what is heavy to the functions
that need it; `tables` has what commands print.
"""
