"""The rooms of `sim/`: no module imports itself through others, and rooms use what others show."""

import graphlib
import importlib.util
from typing import Any

import pytest

grimp = pytest.importorskip("grimp", reason="grimp comes with import-linter, of the extra dev")


@pytest.fixture(scope="module")
def house() -> Any:
    """The import graph; imports within functions count, and so do those for type checking alone."""
    return grimp.build_graph("sim", exclude_type_checking_imports=False, cache_dir=None)


def test_no_module_imports_itself_through_others(house: Any) -> None:
    imports = {module: house.find_modules_directly_imported_by(module) for module in house.modules}
    assert len(imports) > 100
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which lists the modules of a circle


@pytest.mark.parametrize("room", ["base", "experiment", "graphs", "models", "ops", "parallel", "scenario"])
def test_other_rooms_import_what_a_room_lists(room: str, house: Any) -> None:
    listed = importlib.import_module(f"sim.{room}").__all__
    inside = house.find_descendants(f"sim.{room}") | {f"sim.{room}"}
    outside = house.modules - inside
    used = {part[2] for m in outside for i in house.find_modules_directly_imported_by(m) & inside
            if len(part := i.split(".")) > 2}  # fmt: skip
    assert used <= set(listed), f"{room} does not list {used - set(listed)}"
    shown = importlib.import_module(f"sim.{room}")
    assert all(hasattr(shown, name) or importlib.util.find_spec(f"sim.{room}.{name}") for name in listed)
