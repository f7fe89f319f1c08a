"""Laws of the map of regimes: each cell its winner's colour, as deep as it wins, borders where the winner changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from figures import overlapping, point, results, words
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from sim.plots import regimes
from sim.plots.drawing import style

STRATEGIES = ("forward_cached", "reverse_full", "jacobian_chain")
Matrix = list[list[int | None]]


def section(values: list[Matrix], **more: Any) -> dict[str, Any]:
    """Maps whose winner and factor follow from the values, as `sim.experiment.views.regimes.outcome` says."""
    from sim.experiment.views.regimes import outcome

    rows, columns = len(values[0]), len(values[0][0])
    outcomes = [[outcome([v[j][i] for v in values]) for i in range(columns)] for j in range(rows)]
    return {
        "by": "flops",
        "x": {"key": "graph.widths[0]", "label": "inputs", "values": [2**i for i in range(columns)]},
        "y": {
            "key": "budget",
            "label": "budget",
            "values": [1000 * 10**j if j < 9 else 10**12 + j for j in range(rows)],
        },
        "strategies": [
            {"label": s, "strategy": s, "parameters": {"order": "optimal_matrix_free"} if s == "jacobian_chain" else {}}
            for s in STRATEGIES[: len(values)]
        ],
        "winner": [[w for w, _ in row] for row in outcomes],
        "factor": [[f for _, f in row] for row in outcomes],
        "values": values,
        **more,
    }


def data(values: list[Matrix], **more: Any) -> dict[str, Any]:
    return results([point("reverse_full", 1, 1)], regimes=section(values, **more))


def scattered(rows: int, columns: int, seed: int = 1) -> list[Matrix]:
    random = np.random.default_rng(seed)
    return [
        [[int(10 ** random.uniform(3, 6)) + 10**4 * (i - j) ** 2 for i in range(columns)] for j in range(rows)]
        for _ in STRATEGIES
    ]


def fills(figure: Figure) -> list[tuple[float, ...]]:
    [cells] = [c for c in figure.axes[0].collections if c.get_gid() == "cells"]
    assert isinstance(cells, PolyCollection)
    return [tuple(c[:3]) for c in cells.get_facecolor()]


# 2 × 3 cells, two strategies: who wins from below, left to right: first by 2, both equal, second by 100;
# second by 4, the first alone, nobody
SMALL: list[Matrix] = [[[1, 5, 300], [8, 7, None]], [[2, 5, 3], [2, None, None]]]


def test_a_cell_has_the_hue_of_its_winner_and_is_deeper_the_more_it_wins_by(look: Callable[..., list[Any]]) -> None:
    [found] = look(regimes.draw, data(SMALL), fills)
    first, second = "forward_cached", "reverse_full"

    def depth(colour: tuple[float, ...], strategy: str) -> float:
        """The share of the strategy's colour in a tint of it on white."""
        pure = matplotlib.colors.to_rgb(style.STRATEGY_COLOURS[strategy])
        shares = {round((1 - c) / (1 - p), 6) for c, p in zip(colour, pure, strict=True) if p < 1}
        [share] = shares  # else it is no tint of that colour
        return share

    by_two, equal, by_hundred = depth(found[0], first), depth(found[1], first), depth(found[2], second)
    by_four, alone = depth(found[3], second), depth(found[4], first)
    assert equal < by_two < by_four < by_hundred == alone
    assert found[5] == matplotlib.colors.to_rgb(regimes.NOTHING)


def test_numbers_say_what_the_next_best_takes(look: Callable[..., list[Any]]) -> None:
    [texts] = look(regimes.draw, data(SMALL), lambda figure: [t.get_text() for t in figure.axes[0].texts])
    numbers = [t for t in texts if t and t not in STRATEGIES]
    named = [t for t in texts if t in STRATEGIES]
    # names may stand in place of numbers
    assert set(numbers) <= {"2.0", "=", "100", "4.0"}
    assert len(numbers) + len(named) >= 4
    [texts] = look(regimes.draw, data(scattered(9, 9)), lambda figure: len(figure.axes[0].texts))
    assert texts > 60


def test_borders_lie_where_the_winner_changes_and_nowhere_else(look: Callable[..., list[Any]]) -> None:
    def borders(figure: Figure) -> set[frozenset[tuple[float, float]]]:
        [lines] = [c for c in figure.axes[0].collections if c.get_gid() == "borders"]
        assert isinstance(lines, LineCollection)
        return {frozenset(map(tuple, s)) for s in lines.get_segments()}

    [found] = look(regimes.draw, data(SMALL), borders)
    # winners: 0 0 1 below, 1 0 nobody above
    assert found == {
        frozenset({(2, 0), (2, 1)}),
        frozenset({(1, 1), (1, 2)}),
        frozenset({(2, 1), (2, 2)}),
        frozenset({(0, 1), (1, 1)}),
        frozenset({(2, 1), (3, 1)}),
    }


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 13), (13, 2), (13, 13), (50, 50), (5, 50)])
def test_no_words_cover_others_or_leave_the_figure(rows: int, columns: int, look: Callable[..., list[Any]]) -> None:
    def check(figure: Figure) -> None:
        texts = words(figure)
        assert overlapping(texts) == []
        for text, box in texts:
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text

    assert look(regimes.draw, data(scattered(rows, columns)), check) == [None]


def test_every_winner_is_in_the_legend_with_the_number_of_its_cells(look: Callable[..., list[Any]]) -> None:
    [texts] = look(regimes.draw, data(SMALL), lambda figure: [t.get_text() for t in figure.texts])
    assert {"fewest flops", "forward_cached", "reverse_full", "nothing applies or fits"} <= set(texts)
    assert [t for t in texts if t.endswith((" cell", " cells"))] == ["3 cells", "2 cells", "1 cell"]


def test_ticks_are_the_values_and_sizes_are_written_as_people_write_them(look: Callable[..., list[Any]]) -> None:
    def ticks(figure: Figure) -> tuple[list[str], list[str]]:
        axes = figure.axes[0]
        return [t.get_text() for t in axes.get_xticklabels()], [t.get_text() for t in axes.get_yticklabels()]

    assert look(regimes.draw, data(SMALL), ticks) == [(["1", "2", "4"], ["1 kB", "10 kB"])]


def test_winners_of_one_strategy_have_colours_of_their_own() -> None:
    many = section([[[k + 1 if i == k else 9 for i in range(3)]] for k in range(3)])
    same = [{"label": str(k), "strategy": "reverse_checkpointed", "parameters": {"slots": k}} for k in range(3)]
    assert len(set(regimes.read_map(many | {"strategies": same}).colours.values())) == 3
    assert regimes.read_map(many).colours[0] == style.STRATEGY_COLOURS["forward_cached"]


def test_the_same_results_give_the_same_bytes_whatever_the_settings(tmp_path: Path) -> None:
    first = regimes.draw(data(scattered(7, 7)), tmp_path / "first")
    with matplotlib.rc_context({"font.size": 20, "image.cmap": "gray", "svg.hashsalt": None}):
        second = regimes.draw(data(scattered(7, 7)), tmp_path / "second")
    assert [p.suffix for p in first] == [".png", ".svg"]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_without_a_map_there_is_no_file(tmp_path: Path) -> None:
    assert regimes.draw(results([point("other", 1, 1)], regimes=None), tmp_path / "regimes") == ()
    assert not list(tmp_path.iterdir())
