"""Laws of the picture of a schedule: each action at its node and number, bars as long as values live."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from figures import overlapping, point, results, words
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from sim import plots
from sim.plots import schedule


def entry(label: str = "sqrt", *, times: int = 1, nodes: int = 3, **more: Any) -> dict[str, Any]:
    """Forward 1 … n, back n, and so `times` times; the output of node 1 is kept for all of it."""
    once = [[0, 0, nodes - 1], [3, nodes - 1, 0]]
    again = [[1, 0, nodes - 1], [3, nodes - 1, 0]]
    actions = 2 * nodes * times
    return {
        "label": label,
        "strategy": "reverse_checkpointed",
        "parameters": {"schedule": label},
        "nodes": nodes,
        "actions": actions,
        "kinds": ["forward", "recompute", "jvp", "vjp", "copy"],
        "sweeps": once + again * (times - 1),
        "stored": [
            {"value": "activation", "tier": "device", "spans": [[0, 0, actions, 4], [1, 1, 3, 2]]},
            {"value": "residual", "tier": "device", "spans": [[2, 2, 2 + 4, 4]]},
        ],
        "loops": [],
        **more,
    }


def pictured(*entries: dict[str, Any]) -> dict[str, Any]:
    return results([point("reverse_checkpointed", 1, 1)], pictures=list(entries))


def marks(figure: Figure, panel: int = 0) -> dict[str, set[tuple[float, float]]]:
    lines = [line for line in figure.axes[panel].lines if str(line.get_gid()).endswith("-marks")]
    return {str(line.get_gid()).removesuffix("-marks"): set(map(tuple, line.get_xydata())) for line in lines}


def test_each_action_is_a_mark_at_its_node_and_half_past_its_number(look: Callable[..., list[Any]]) -> None:
    [found] = look(schedule.draw, pictured(entry(times=2)), marks)
    assert found == {
        "forward": {(1, 0.5), (2, 1.5), (3, 2.5)},
        "recompute": {(1, 6.5), (2, 7.5), (3, 8.5)},
        "vjp": {(3, 3.5), (2, 4.5), (1, 5.5), (3, 9.5), (2, 10.5), (1, 11.5)},
    }


def test_a_bar_is_as_long_as_its_value_lives_and_time_runs_down(look: Callable[..., list[Any]]) -> None:
    def bars(figure: Figure) -> tuple[dict[str, list[tuple[float, float, float]]], tuple[float, float]]:
        found = [c for c in figure.axes[0].collections if str(c.get_gid()).endswith("-bars")]
        assert all(isinstance(c, LineCollection) for c in found)
        spans = {str(c.get_gid()): [(round(s[0, 0]), s[0, 1], s[1, 1]) for s in c.get_segments()] for c in found}
        return spans, figure.axes[0].get_ylim()

    [(spans, (bottom, top))] = look(schedule.draw, pictured(entry()), bars)
    assert spans == {"activation-bars": [(1, 0, 6), (2, 1, 3)], "residual-bars": [(3, 2, 6)]}
    assert bottom > 6 > 0 > top


def test_too_many_actions_for_marks_leave_the_lines(look: Callable[..., list[Any]]) -> None:
    def lines(figure: Figure) -> tuple[dict[str, Any], int]:
        sweeps = [c for c in figure.axes[0].collections if c.get_gid() is None]
        return marks(figure), sum(len(c.get_segments()) for c in sweeps)

    [(found, count)] = look(schedule.draw, pictured(entry(nodes=500, times=2)), lines)
    assert found == {}
    assert count == 4  # sweeps


def test_bars_are_as_wide_as_their_bytes(look: Callable[..., list[Any]]) -> None:
    def widths(figure: Figure) -> list[float]:
        [bars] = [c for c in figure.axes[0].collections if c.get_gid() == "activation-bars"]
        return list(bars.get_linewidths())

    [[wide, half]] = look(schedule.draw, pictured(entry()), widths)  # of 4 bytes and of 2
    assert half == pytest.approx(wide / 2)


def test_many_nodes_are_drawn_by_blocks_whose_bars_add_up(look: Callable[..., list[Any]]) -> None:
    """Four blocks of 20 nodes; two values of the second take 3 and 1 bytes, and 4 together from action 10 to 30."""
    spans = [[20, 0, 30, 3], [21, 10, 40, 1], [60, 5, 20, 2]]
    data = pictured(entry(nodes=80, stored=[{"value": "activation", "tier": "device", "spans": spans}]))
    names = [f"stage.block{k // 20}.conv{k}" for k in range(80)]
    data["model"] = {"nodes": 80, "first": [*range(80)], "names": names}

    def widths(figure: Figure) -> dict[int, dict[int, float]]:
        found: dict[int, dict[int, float]] = {}
        for area in (c for c in figure.axes[0].collections if c.get_gid() == "block-bars"):
            corners = area.get_paths()[0].vertices
            left = corners[:, 0].min()
            found[round(left)] = {
                k: max(x - left for x, y in corners if y == k) for k in (0, 10, 30, 40) if k in corners[:, 1]
            }
        return found

    [found] = look(schedule.draw, data, widths)
    assert sorted(found) == [2, 4]
    assert found[2][10] == pytest.approx(0.96)  # the most that any block has
    assert found[2][0] == pytest.approx(0.96 * 3 / 4)
    [texts] = look(schedule.draw, data, lambda figure: {t for t, _ in words(figure)})
    assert {f"stage.block{k}" for k in range(4)} <= texts


def test_blocks_are_the_names_that_make_few_enough_columns_else_equal_stretches() -> None:
    assert schedule.blocks_of(None, schedule.MOST_NODES) == ()
    deep = {"names": [f"stage{k // 50}.block{k // 2}.conv{k}" for k in range(200)]}  # 100 blocks are too many
    assert [b.name for b in schedule.blocks_of(deep, 200)] == ["stage0", "stage1", "stage2", "stage3"]
    even = schedule.blocks_of({"names": [f"n{k}" for k in range(200)]}, 200)
    assert len(even) == schedule.EVEN_BLOCKS
    assert even[0].start == 0
    assert even[-1].stop == 200
    assert all(a.stop == b.start for a, b in itertools.pairwise(even))


def test_panels_share_the_axis_of_actions_unless_one_is_much_longer(look: Callable[..., list[Any]]) -> None:
    def limits(figure: Figure) -> list[tuple[float, float]]:
        return [a.get_ylim() for a in figure.axes]

    [(a, b)] = look(schedule.draw, pictured(entry(), entry("periodic", times=4)), limits)
    assert a == b
    [(a, b)] = look(schedule.draw, pictured(entry(), entry("periodic", times=5)), limits)
    assert a != b


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("nodes", [1, 30, 250])
def test_no_words_cover_others_or_leave_the_figure(count: int, nodes: int, look: Callable[..., list[Any]]) -> None:
    name = "multilevel_with_a_long_name"
    entries = [entry(f"{name}_{i}", times=i + 1, nodes=nodes) for i in range(count)]

    def check(figure: Figure) -> None:
        texts = words(figure)
        assert overlapping(texts) == []
        for text, box in texts:
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text

    assert look(schedule.draw, pictured(*entries), check) == [None]


def test_a_panel_is_named_and_its_actions_are_counted_loops_multiplied_out(look: Callable[..., list[Any]]) -> None:
    looped = entry(times=2, loops=[{"start": 3, "stop": 6, "times": 7}])
    [texts] = look(schedule.draw, pictured(looped), lambda figure: {t for t, _ in words(figure)})
    # 3 forwards, 3 VJPs seven times, 3 recomputations, 3 VJPs
    assert {"sqrt", "3 forwards · 3 recomputations · 24 VJPs", "× 7"} <= texts


def test_the_same_results_give_the_same_bytes_whatever_the_settings(tmp_path: Path) -> None:
    data = pictured(entry(), entry("periodic", times=3))
    first = schedule.draw(data, tmp_path / "first")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": None}):
        second = schedule.draw(data, tmp_path / "second")
    assert [p.suffix for p in first] == [".png", ".svg"]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_without_pictures_there_is_no_file(tmp_path: Path) -> None:
    assert schedule.draw(results([point("other", 1, 1)]), tmp_path / "schedule") == ()
    assert schedule.draw(pictured(), tmp_path / "schedule") == ()
    assert not list(tmp_path.iterdir())


def test_the_figure_is_among_those_that_a_run_draws(tmp_path: Path) -> None:
    names = {p.name for p in plots.draw_all(pictured(entry()), tmp_path)}
    assert {"schedule.png", "schedule.svg"} <= names


def test_every_kind_of_action_has_a_colour_and_a_shape_of_its_own() -> None:
    looks = list(schedule.LOOKS.values())
    assert len({kind.colour for kind in looks}) == len({kind.marker for kind in looks}) == len(looks)
    assert np.all([kind.name for kind in looks])
