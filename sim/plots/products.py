"""Orders of products: each bracketing as a tree with the multiply-adds of its steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from sim.plots.drawing import style
from sim.report.finding import factor

MOST_PANELS = 4
MOST_FACTORS = 16
RISE = 0.42
"""Inches between a step and those that it needs."""
LONGEST_OF_TWO = 76
"""Letters of a title up to which two panels stand side by side."""
_TOKENS = re.compile(r"[()·→←]|F\d+")


@dataclass(frozen=True)
class Step:
    """A product (·) of two parts, or a part taken through an element by tangents (→) or adjoints (←).

    A factor has no parts; `how` is then the arrow with which a sweep begins at it, or empty. `first` and
    `last` are the elements that it spans.
    """

    how: str
    first: int
    last: int
    parts: tuple[Step, ...] = ()

    def steps(self) -> Iterator[Step]:
        """This step and all that it needs."""
        yield self
        for part in self.parts:
            yield from part.steps()

    @property
    def depth(self) -> int:
        """The most steps from here down to a factor."""
        return 1 + max(part.depth for part in self.parts) if self.parts else 0


def parse(bracketing: str) -> Step | None:
    """The tree of a bracketing; `None` where it is cut short or none.

    >>> parse("((F3→F2→)·F1)").parts[0].how
    '→'
    """
    tokens = _TOKENS.findall(bracketing)
    if "".join(tokens) != bracketing or sum(t[0] == "F" for t in tokens) > MOST_FACTORS:
        return None
    try:
        tree, rest = _part([*tokens, ""])
    except (IndexError, ValueError):
        return None
    return (
        tree if rest == [""] and [s.first for s in tree.steps() if not s.parts] == [*range(tree.last, -1, -1)] else None
    )


def _part(tokens: list[str]) -> tuple[Step, list[str]]:
    if tokens[0] == "(":
        left, (how, *rest) = _part(tokens[1:])
        right, (close, *rest) = _part(rest)
        if how not in ("·", "→", "←") or close != ")":
            raise ValueError
        return Step(how, right.first, left.last, (left, right)), rest
    begins = tokens[0] if tokens[0] == "←" else ""
    name, *rest = tokens[bool(begins) :]
    if name[:1] != "F":
        raise ValueError
    if rest[0] == "→" and rest[1] in (")", ""):
        begins, rest = "→", rest[1:]
    return Step(begins, int(name[1:]) - 1, int(name[1:]) - 1), rest


def draw(results: Mapping[str, Any], stem: Path) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` of the `products` in the parsed results.json; nothing without a tree.

    Orders that are the same share a panel. A factor stands where it does in the product, the last element
    on the left; the dearest steps of an order are marked.
    """
    orders: dict[str, list[Mapping[str, Any]]] = {}
    for entry in results.get("products") or ():
        if entry["point"] < len(results["points"]):
            orders.setdefault(entry["bracketing"], []).append(entry)
    panels = [(tree, same) for text, same in orders.items() if (tree := parse(text)) is not None and tree.parts]
    panels = panels[:MOST_PANELS]
    if not panels:
        return ()
    titles = [_title(results, same) for _, same in panels]
    narrow = max(tree.last for tree, _ in panels) < 6 and max(map(len, titles)) <= LONGEST_OF_TWO
    columns = 2 if len(panels) > 1 and narrow else 1
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [RISE * (max(tree.depth for tree, _ in row) + 1) for row in rows]
    above, between = 1.15, 0.5
    tall = above + sum(heights) + between * len(rows) + 0.15
    with style.canvas(12.0, tall) as figure:
        title = style.named(results, _finding(results, panels))
        style.heading(
            figure, results, title=title, what="multiply-adds of each step; → by tangents, ← by adjoints, · a product"
        )
        at = above
        for row, height in zip(rows, heights, strict=True):
            at += between
            for k, (tree, same) in enumerate(row):
                width = 11.3 / columns - 0.3
                axes = figure.add_axes(
                    ((0.35 + k * 11.3 / columns) / 12, 1 - (at + height) / tall, width / 12, height / tall)
                )
                _panel(axes, tree, same[0], _title(results, same))
            at += height
        return style.save(figure, stem)


def _finding(results: Mapping[str, Any], panels: Sequence[tuple[Step, Sequence[Mapping[str, Any]]]]) -> str:
    """How much less the cheapest of the orders takes than the dearest."""
    costs = [sum(same[0]["flops"]) for _, same in panels]
    names = [str(results["points"][same[0]["point"]]["label"]) for _, same in panels]
    least, most = costs.index(min(costs)), costs.index(max(costs))
    if not costs[least] or costs[least] == costs[most]:
        return f"{names[least]} takes {costs[least] // 2:,} multiply-adds"
    times = factor(costs[most] / costs[least])
    return f"{names[least]} takes {times} times fewer multiply-adds than {names[most]}"


def _title(results: Mapping[str, Any], same: Sequence[Mapping[str, Any]]) -> str:
    names = " = ".join(dict.fromkeys(results["points"][entry["point"]]["label"] for entry in same))
    return f"{names}:  {sum(same[0]['flops']) // 2:,} multiply-adds"


def _panel(axes: Axes, tree: Step, entry: Mapping[str, Any], title: str) -> None:
    costs = _costs(entry)
    most = max(costs.get(_key(step), 0) for step in tree.steps())
    count, depth = tree.last + 1, tree.depth
    bottom = depth + 0.35

    def place(step: Step, level: int) -> tuple[float, float]:
        if not step.parts:
            x = count - 0.5 - step.first
            text = {"": "F{}", "→": "F{} →", "←": "← F{}"}[step.how].format(step.first + 1)
            axes.plot([x], [bottom - 0.3], "o", color=style.SKY, markersize=5, zorder=3)
            axes.text(x, bottom, text, ha="center", va="center", fontsize=8.5)
            return x, bottom - 0.3
        below = [place(part, level + 1) for part in step.parts]
        x = sum(x for x, _ in below) / len(below)
        for to in below:
            axes.plot([x, to[0]], [level, to[1]], color=style.MUTED, linewidth=0.9, zorder=1)
        cost = costs.get(_key(step), 0)
        dearest = cost == most > 0
        axes.text(
            x, level, f"{step.how} {cost // 2:,}", ha="center", va="center", fontsize=8.5, zorder=4,
            color=style.PAPER if dearest else style.INK, fontweight="bold" if dearest else "normal",
            bbox={
                "boxstyle": "round,pad=0.3", "linewidth": 0.7, "edgecolor": style.MUTED,
                "facecolor": style.VERMILLION if dearest else style.PAPER,
            },
        )  # fmt: skip
        return x, float(level)

    place(tree, 0)
    axes.set_xlim(0, count)
    axes.set_ylim(bottom + 0.25, -0.45)
    axes.axis("off")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", pad=5)


def _costs(entry: Mapping[str, Any]) -> dict[Sequence[Any], int]:
    """The flops of each step, by what `_key` says of it."""
    columns = (entry[key] for key in ("kind", "node", "middle", "source", "flops"))
    return {
        (kind, node, *((middle, source) if kind == "multiply" else ())): flops
        for kind, node, middle, source, flops in zip(*columns, strict=True)
    }


def _key(step: Step) -> Sequence[Any]:
    """The action of a step: a product of Jacobians, or a sweep through the element next to what is there."""
    if not step.parts:
        return {"→": "jvp", "←": "vjp", "": "jacobian"}[step.how], step.first
    left, right = step.parts
    if step.how == "·":
        return "multiply", step.last, right.last, step.first - 1
    return ("jvp", left.last) if step.how == "→" else ("vjp", right.first)
