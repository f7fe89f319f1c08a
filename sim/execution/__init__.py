"""Schedules run on real arrays: the exact derivative, and the bytes that were really held.

`sim.execution.numpy.execute.execute` runs any schedule of a graph whose ops have a rule in `sim.ops.table`;
`sim.execution.numpy.arrays` makes inputs and parameters of the right shapes. To make an op executable, add
one entry to the table in `sim.ops.table`.
"""
