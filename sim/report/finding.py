"""The finding of a run in one sentence, three numbers, and the two points that it compares.

The page, the charts and the terminal say it. Everything is worked out from the parsed results.json; where
points tell nothing of a trade-off, the sentence says how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from sim.base import pareto
from sim.base.units import format_bytes, format_flops, format_seconds

Point = Mapping[str, Any]
FULL_STORE: Mapping[str, str] = {"reverse_full": "full store", "in_order": "the listed order"}
"""Strategies that compute each node once and keep what is needed, and what a sentence calls them."""
MUCH_LESS = 0.9
"""The share of full store's work below which less work is the finding, and not less memory."""
HIDDEN = 1.02
"""The share of full store's time up to which copies count as hidden."""
LARGEST_RATIO = 10**300
LEAST_MEASURES: Mapping[str, str] = {"flops": "fewest flops", "peak_bytes": "smallest peak", "seconds": "least time"}


class Fact(NamedTuple):
    """One of the three numbers: what it is, its value, and what it compares with."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Finding:
    """The sentence, without a full stop; `a` and `b` are the points that it compares, `base` what all are told in.

    Points are their places in results.json, or `None` where there are none.
    """

    sentence: str
    facts: tuple[Fact, ...] = ()
    a: int | None = None
    b: int | None = None
    base: int | None = None
    base_name: str = ""


def finding(results: Mapping[str, Any]) -> Finding:
    """What a run shows: of its map if it has one, else of its points."""
    of_points = points_finding(results)
    section = results.get("regimes")
    if not section:
        return of_points
    cells = [winner for row in section["winner"] for winner in row]
    least, labels = LEAST_MEASURES[section["by"]], [str(s["label"]) for s in section["strategies"]]
    wins = sorted({w for w in cells if w is not None}, key=lambda k: -cells.count(k))
    if not wins:
        return of_points
    told = [f"{labels[k]} wins {cells.count(k):,}" if k == wins[0] else f"{labels[k]} {cells.count(k):,}" for k in wins]
    sentence = f"{_name(results)}: of {len(cells):,} cells {_listed(told)} ({least})"
    facts = tuple(Fact(labels[k], f"{cells.count(k):,} cells", f"of {len(cells):,}: {least}") for k in wins[:3])
    return Finding(
        sentence, (*facts, *of_points.facts)[:3], of_points.a, of_points.b, of_points.base, of_points.base_name
    )


def points_finding(results: Mapping[str, Any]) -> Finding:
    """What the points of a run show."""
    points: Sequence[Point] = results["points"]
    if not points:
        return Finding(f"{_name(results)}: no point was finished")
    if any(p.get("ranks") for p in points):
        return _of_pipelines(results, points)
    return _Comparison(_name(results), points).finding()


def share(ratio: float) -> str:
    """`45 %`, `1.3 %`, `0.12 %`: two digits, or none behind the point from 10 on."""
    value = 100 * ratio
    if 0 < value < 0.005:
        return "< 0.01 %"
    places = 0 if value >= 9.95 else 1 if value >= 0.95 else 2
    text = f"{value:.{places}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def factor(ratio: float) -> str:
    """`3.7`, `22`, `1,024`: two digits of a factor."""
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.1f}".removesuffix(".0")


def dearer(ratio: float) -> str:
    """What a ratio of works is in words: `3 % more work`, `2.4 times the work`."""
    if ratio == 1:
        return "the same work"
    if ratio >= 1.995:
        return f"{factor(ratio)} times the work"
    return f"{share(ratio - 1)} more work" if ratio > 1 else f"{share(1 - ratio)} less work"


def baseline(points: Sequence[Point]) -> int:
    """The point that others are compared with: storing everything once if that was run, else the least work."""
    if any(p.get("ranks") for p in points):
        gpipe = [i for i, p in enumerate(points) if p["strategy"] == "gpipe"]
        return gpipe[0] if gpipe else max(range(len(points)), key=lambda i: points[i].get("seconds") or 0.0)
    full = [i for i, p in enumerate(points) if p["strategy"] in FULL_STORE]
    return min(full or range(len(points)), key=lambda i: points[i]["flops"]["total"])


def copies(point: Point) -> bool:
    """Tell whether a point moves values between tiers: it pays in time, so it stays out of fronts over work."""
    return any((point.get("copied_bytes") or {}).values())


def time(seconds: float) -> str:
    """`823 µs`, for a page and a figure, which have the letter."""
    return format_seconds(seconds).replace("us", "µs")


def times(ratio: float) -> str:
    """`× 1.42`, `× 1.0016`: near 1 two places would hide what a plan costs."""
    return f"× {ratio:.4f}" if ratio != 1 and abs(ratio - 1) < 0.01 else f"× {ratio:.3g}"


def one_breakpoint(results: Mapping[str, Any]) -> str | None:
    """The planned front in a sentence if it has one breakpoint, of which a chart would say nothing."""
    exact = [curve["breakpoints"] for curve in results.get("curves") or () if curve["kind"] == "exact"]
    corners = {tuple(pair) for breakpoints in exact for pair in breakpoints}
    if len(corners) != 1:
        return None
    memory, flops = corners.pop()
    return f"the planned front is one point, {format_bytes(memory)} for {format_flops(flops)}: no checkpoint pays"


def _name(results: Mapping[str, Any]) -> str:
    return str(results["scenario"]["name"])


def _over(a: int, b: int) -> float:
    """The ratio of two counts of any size; 1 over nothing."""
    return float(min(Fraction(a, b), Fraction(LARGEST_RATIO))) if b else 1.0


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


class _Comparison:
    """Points of one device beside the one that they are compared with."""

    def __init__(self, name: str, points: Sequence[Point]) -> None:
        self.name, self.points, self.base = name, points, baseline(points)
        base = points[self.base]
        self.base_name = FULL_STORE.get(base["strategy"], base["label"])
        # where most of the memory is resident, no plan can change much of the peak: then working memory is compared
        working = 2 * base["resident_bytes"] > base["peak_bytes"]
        self.what = "working memory" if working else "memory"
        self.key = "working_bytes" if working else "peak_bytes"

    def memory(self, i: int) -> int:
        return int(self.points[i][self.key])

    def work(self, i: int) -> int:
        return int(self.points[i]["flops"]["total"])

    def ratio(self, i: int) -> float:
        return _over(self.work(i), self.work(self.base))

    @property
    def smallest(self) -> int:
        return min(range(len(self.points)), key=lambda i: self.points[i]["peak_bytes"])

    def finding(self) -> Finding:
        points, base = self.points, self.base
        fitting = [i for i, p in enumerate(points) if p.get("fits", True)]
        if not fitting:
            least = self.smallest
            peak = f"the smallest peak is {format_bytes(points[least]['peak_bytes'])}, of {points[least]['label']}"
            return self.told(f"nothing fits; {peak}", least, base)
        if len(points) == 1:
            return self.told(
                f"{format_bytes(points[base]['peak_bytes'])} at the peak, {format_flops(self.work(base))}", base, base
            )
        front = self.front(fitting)
        smaller = [i for i in front if self.memory(i) < self.memory(base)]
        cheapest = front[-1]
        if points[base]["strategy"] not in FULL_STORE and not smaller:
            dearest = max(fitting, key=self.work)
            if self.work(dearest) > self.work(base) > 0:
                ratio = _over(self.work(dearest), self.work(base))
                less = f"{factor(ratio)} times less work than {points[dearest]['label']}"
                return self.told(
                    f"{points[base]['label']} takes {less}, {self.in_memory(base, dearest)}", base, dearest
                )
        if self.ratio(cheapest) < MUCH_LESS:
            near = min((i for i in front if 10 * self.work(i) <= 11 * self.work(cheapest)), key=self.memory)
            less = f"{factor(_over(self.work(base), self.work(near)))} times less work than {self.base_name}"
            return self.told(f"{points[near]['label']} takes {less}, {self.in_memory(near, base)}", near, base)
        if base not in fitting:
            lacks = f"{self.base_name} does not fit ({format_bytes(points[base]['peak_bytes'])})"
            fits = f"{points[cheapest]['label']} does, in {format_bytes(points[cheapest]['peak_bytes'])}"
            return self.told(f"{lacks}; {fits} for {dearer(self.ratio(cheapest))}", cheapest, base)
        if not smaller:
            nothing = f"nothing takes less memory than {self.base_name}, {format_bytes(points[base]['peak_bytes'])}"
            return self.told(nothing, base, next((i for i in fitting if i != base), base))
        return self.traded(fitting, smaller)

    def traded(self, fitting: Sequence[int], smaller: Sequence[int]) -> Finding:
        """Less memory for more work, or for copies that computations hide."""
        points, base = self.points, self.base
        # beyond twice the work memory is seldom worth it: the knee of a front with a long tail lies there
        among = [i for i in smaller if self.ratio(i) <= 2] or list(smaller)
        pairs = [(self.memory(i), self.work(i)) for i in [*among, base]]
        knee = pareto.knee(pairs)
        best = [*among, base][knee] if knee is not None and knee < len(among) else among[-1]
        limit = HIDDEN * (points[base].get("seconds") or 0.0)
        copying = [i for i in fitting if copies(points[i]) and self.memory(i) < self.memory(best)]
        hidden = [i for i in copying if (points[i].get("seconds") or 2 * limit + 1) <= limit]
        if hidden:
            best = min(hidden, key=self.memory)
            paid = "in the same time, by copies that computations hide"
        else:
            paid = f"for {dearer(self.ratio(best))}"
        part = share(_over(self.memory(best), self.memory(base)))
        return self.told(f"{part} of the {self.what} of {self.base_name} {paid}", best, base)

    def front(self, among: Sequence[int]) -> list[int]:
        """The points that none beats in memory and work, memory rising; those that copy only if all do."""
        competing = [i for i in among if not copies(self.points[i])] or list(among)
        return [competing[k] for k in pareto.front([(self.memory(i), self.work(i)) for i in competing])]

    def in_memory(self, i: int, other: int) -> str:
        ratio = _over(self.memory(i), self.memory(other))
        return f"with {factor(ratio)} times its {self.what}" if ratio > 1 else f"in {share(ratio)} of its {self.what}"

    def told(self, sentence: str, a: int, b: int) -> Finding:
        return Finding(f"{self.name}: {sentence}", self.facts(a, b), a, b, self.base, self.base_name)

    def facts(self, a: int, b: int) -> tuple[Fact, ...]:
        points = self.points
        best, other = points[a], points[b]
        named = self.base_name if b == self.base else other["label"]
        label = "peak memory" if self.what == "memory" else self.what
        beside = best["label"] if a == b else f"{named}: {format_bytes(self.memory(b))}"
        again = best["flops"].get("recompute", 0)
        facts = [
            Fact(label, format_bytes(self.memory(a)), beside),
            Fact("work", times(self.ratio(a)), f"{format_flops(self.work(a))}; {format_flops(again)} of it again"),
        ]
        if best.get("seconds") is not None and other.get("seconds") is not None:
            detail = f"{named}: {time(other['seconds'])}"
            facts.append(Fact("time of the simulation", time(best["seconds"]), detail))
        else:
            least = self.smallest
            detail = f"{points[least]['label']}, {times(self.ratio(least))} work"
            facts.append(Fact("smallest peak of all", format_bytes(points[least]["peak_bytes"]), detail))
        return tuple(facts)


def _of_pipelines(results: Mapping[str, Any], points: Sequence[Point]) -> Finding:
    base = baseline(points)
    best = min(range(len(points)), key=lambda i: (points[i].get("seconds") or float("inf"), i))
    a, b, name = points[best], points[base], _name(results)
    in_bytes = bool(a["peak_bytes"])

    def held(p: Point) -> str:
        return (
            format_bytes(p["peak_bytes"])
            if in_bytes
            else f"{max(r['in_flight'] for r in p['ranks']):.3g} micro-batches"
        )

    if len(points) == 1:
        spent = f"{b['label']} takes {time(b['seconds'] or 0.0)}, of which {share(b['bubble'])} is bubble"
        sentence = f"{name}: {spent}, and holds {held(b)}"
    elif best == base:
        sentence = f"{name}: no schedule is faster than {b['label']}, {time(b['seconds'] or 0.0)}"
    else:
        less = f"takes {share(1 - a['seconds'] / b['seconds'])} less time than {b['label']}"
        sentence = f"{name}: {a['label']} {less} and holds {held(a)} where that holds {held(b)}"
    pairs: Sequence[tuple[str, Callable[[Point], str]]] = (
        ("time", lambda p: time(p["seconds"] or 0.0)),
        ("bubble", lambda p: share(p["bubble"])),
        ("peak memory of a rank" if in_bytes else "in flight", held),
    )
    facts = tuple(Fact(label, of(a), f"{b['label']}: {of(b)}") for label, of in pairs)
    return Finding(sentence, facts, best, base, base, b["label"])
