"""Plans of any graph, with VJPs or without: any order, any number of runs, and bounds from below.

`problem` states what is planned, `planner.plan` finds plans, `front.general_front` the front of a graph with VJPs;
`certificate` proves what no plan comes below. README.md beside this file explains the method.
"""
