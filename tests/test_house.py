"""The rooms of `sim/`: no module imports itself through others."""

import graphlib

import pytest

grimp = pytest.importorskip("grimp", reason="grimp comes with import-linter, of the extra dev")

CIRCLES = {
    ("sim.simulation.trace", "sim.simulation.chrome"),
    ("sim.strategies.optimal.strategy", "sim.strategies.general.front"),
}
"""Imports that close a circle today."""


def test_no_module_imports_itself_through_others() -> None:
    """Imports within functions count, and so do those for type checking alone."""
    house = grimp.build_graph("sim", exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: set(house.find_modules_directly_imported_by(module)) for module in house.modules}
    assert len(imports) > 100
    for importer, imported in CIRCLES:
        imports[importer].discard(imported)
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which lists the modules of a circle
