"""Schedules run on real arrays: the exact derivative, and the bytes that were really held.

`sim.execution.numpy.execute.execute` runs any schedule of a graph whose ops have an array rule in `sim.ops`;
`sim.execution.numpy.arrays` makes inputs and parameters of the right shapes.
"""
