"""Trees of products: every step of a bracketing with its multiply-adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from figures import looking_at
from hypothesis import given
from hypothesis import strategies as st

from sim.base.yaml import parse as document
from sim.experiment.run import run
from sim.plots import products
from sim.scenario.scenario import from_document

SCENARIO = """\
version: 1
name: demo
graph: {kind: chain, sizes: [10, 2, 100, 20]}
wrt: input
strategies:
  - jacobian_chain: {order: [forward, reverse, optimal, optimal_matrix_free]}
"""
RAN = run(from_document(document(SCENARIO, name="f.yaml"))).to_dict()


def test_the_steps_of_three_factors_are_written_with_their_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A·B·C of 20×100, 100×2, 2×10 takes 100·2·10 + 20·100·10 from the right and 20·100·2 + 20·2·10 from the left."""

    def texts(figure: Any) -> Any:
        return {axes.get_title(loc="left"): {t.get_text() for t in axes.texts} for axes in figure.axes}

    (seen,) = looking_at(monkeypatch)(products.draw, RAN, texts)
    factors = {"F3", "F2", "F1"}
    assert seen["jacobian_chain forward:  22,000 multiply-adds"] == factors | {"· 2,000", "· 20,000"}
    together = "jacobian_chain reverse = jacobian_chain optimal:  4,400 multiply-adds"
    assert seen[together] == factors | {"· 4,000", "· 400"}
    assert len(seen) == 3


@st.composite
def bracketings(draw: st.DrawFn, first: int = 1, last: int | None = None) -> str:
    """A bracketing of F`last` … F`first`, of products alone."""
    last = draw(st.integers(1, products.MOST_FACTORS)) if last is None else last
    if first == last:
        return f"F{first}"
    split = draw(st.integers(first, last - 1))
    return f"({draw(bracketings(split + 1, last))}·{draw(bracketings(first, split))})"


def written(step: products.Step) -> str:
    if not step.parts:
        return f"F{step.first + 1}"
    return f"({step.how.join(map(written, step.parts))})"


@given(bracketings())
def test_a_bracketing_is_the_tree_that_is_written_so(text: str) -> None:
    tree = products.parse(text)
    assert tree is not None
    assert written(tree) == text


@pytest.mark.parametrize(
    "text", ["", "F", "(F2·F1", "(F2·F1))", "(F1·F2)", "F2", "(F2 F1)", "(F2·)", "·F1", "(F3·F1)", "(F2·F1 …"]
)
def test_what_is_no_bracketing_has_no_tree(text: str) -> None:
    assert products.parse(text) is None


def test_the_arrows_of_sweeps_are_read() -> None:
    tree = products.parse("((F5→F4→)·((←F3←F2)←F1))")
    assert tree is not None
    assert [(s.how, s.last, s.first) for s in tree.steps()] == [
        ("·", 4, 0), ("→", 4, 3), ("", 4, 4), ("→", 3, 3),
        ("←", 2, 0), ("←", 2, 1), ("←", 2, 2), ("", 1, 1), ("", 0, 0),
    ]  # fmt: skip


def test_every_step_of_the_scenario_has_its_cost() -> None:
    for entry in RAN["products"]:
        tree, costs = products.parse(entry["bracketing"]), products._costs(entry)
        assert tree is not None
        assert sum(costs.get(products._key(step), 0) for step in tree.steps()) == sum(entry["flops"])


def test_results_without_trees_have_no_such_figure(tmp_path: Path) -> None:
    assert products.draw({"scenario": {}, "points": []}, tmp_path / "products") == ()
    assert products.draw(RAN | {"points": []}, tmp_path / "products") == ()
