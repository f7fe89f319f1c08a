"""Schedules run on real arrays: the exact derivative, and the bytes that were really held.

`sim.execute.numpy.execute` runs any schedule of a graph whose ops have a rule in `sim.execute.ops`;
`sim.execute.arrays` makes inputs and parameters of the right shapes. To make an op executable, add
one entry to the table in `sim.execute.ops`.
"""
