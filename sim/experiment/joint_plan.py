"""A training step under a budget: which calls of its joint graph run, in which order and how often.

`plan_step` answers a `Question` for one joint graph; the `StepPlan` says what it takes, in bytes and in time, and in
which modules something is kept or run again. It can be written down and taken up again for the same model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sim.base import files
from sim.base.errors import NotApplicable, ParameterError
from sim.base.units import format_bytes, format_flops, format_seconds
from sim.execution.torch.prices import PICOSECONDS, flop_prices, measured_prices, roofline_prices
from sim.graphs.node import Ints
from sim.models.torch.rows import JointRows, operation_of, path_of, runs_through, source_of
from sim.schedules.values import READ, WRITE
from sim.simulation.device import Device
from sim.strategies.general.planner import Plan, Planner, plan
from sim.strategies.general.problem import Problem

VERSION = 2
JOINT_GRAPH = "joint graph"
"""The `kind` of plans of joint graphs, which tells them from those of `sim plan`."""
PROFILE_SECONDS = 30.0
"""Time for measuring calls at most, for each graph."""
NARROWINGS, POINTS = 2, 8
"""The rounds in which budgets close in on the smallest peak within an overhead, and budgets in each."""
DEEPENED = 400
"""Rows of all graphs whose smallest peak is searched for by itself where a budget is too small: it takes a while."""
Minimize = Literal["seconds", "flops"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """The request: one of a budget (bytes, or a share of full store's peak), `working`, an overhead and a plan.

    `working` is a budget without parameters, buffers and inputs; the caller's results and their cotangents come on top
    where it cannot be kept. `reserve` are bytes of the budget that the step may not use. Prices are `minimize`: seconds
    are measured, or with a `device` those of its roofline. `effort` and `seed` are those of
    `sim.strategies.general.planner.plan`.
    """

    budget: int | Fraction | None = None
    working: int | None = None
    max_overhead: Fraction | None = None
    plan: Mapping[str, Any] | None = None
    reserve: int = 0
    minimize: Minimize = "seconds"
    device: Device | None = None
    effort: float | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class StepPlan:
    """A plan of one joint graph: peaks of live bytes, parameters, inputs and results included, and prices.

    `full_store_bytes` is the peak of plain training in PyTorch's own order, `resident_bytes` the part of each peak
    that no plan can change. `price` and `full_store_price` are in `unit`. `rows` are the rows in order; `recomputed`
    tells of each call that runs more than once how often beyond that, `saved` how many bytes of each call's results
    are in memory between forward and backward: by (module path, operation, source line).
    """

    peak_bytes: int
    full_store_bytes: int
    resident_bytes: int
    budget_bytes: int | None
    price: int
    full_store_price: int
    unit: Literal["picoseconds", "flops"]
    joint: JointRows = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)

    @property
    def overhead(self) -> float:
        """The share of the price that recomputation adds."""
        return (self.price - self.full_store_price) / max(1, self.full_store_price)

    @cached_property
    def recomputed(self) -> dict[tuple[str, str, str], int]:
        out: Counter[tuple[str, str, str]] = Counter()
        for r, times in Counter(self.rows).items():
            if times > 1:
                out[self._told(r)] += times - 1
        return dict(out)

    @cached_property
    def saved(self) -> dict[tuple[str, str, str], int]:
        joint, at = self.joint, self.rows.index(self.joint.boundary)
        made, out = set[int](), Counter[tuple[str, str, str]]()
        for r in self.rows[at + 1 :]:
            for s in joint.rows[r].reads:
                maker = joint.storages[s].maker
                if s not in made and maker != joint.boundary:
                    out[self._told(maker)] += joint.storages[s].bytes
                    made.add(s)
            made.update(joint.rows[r].makes)
        return dict(out)

    def _told(self, row: int) -> tuple[str, str, str]:
        node = self.joint.rows[row].node
        assert node is not None
        return path_of(node), operation_of(node), source_of(node)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, from which it is taken up again for the same model."""
        return {
            "version": VERSION,
            "kind": JOINT_GRAPH,
            "fingerprint": fingerprint(self.joint),
            "inputs": [[name, list(shape), dtype] for name, shape, dtype in _inputs(self.joint)],
            "peak_bytes": self.peak_bytes,
            "full_store_bytes": self.full_store_bytes,
            "resident_bytes": self.resident_bytes,
            "price": self.price,
            "full_store_price": self.full_store_price,
            "unit": self.unit,
            "saved": [[*told, size] for told, size in self.saved.items()],
            "recomputed": [[*told, times] for told, times in self.recomputed.items()],
            "rows": _runs(self.rows),
        }

    def write(self, path: str | Path) -> Path:
        """The path, once the plan is in it."""
        return files.write(Path(path), json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")

    def __str__(self) -> str:
        shown = format_flops if self.unit == "flops" else _format_picoseconds
        head = (
            f"peak {format_bytes(self.peak_bytes)} (full store {format_bytes(self.full_store_bytes)}), "
            f"of which {format_bytes(self.resident_bytes)} no plan can change; "
            f"{shown(self.price)} a step, {100 * self.overhead:.1f} % more than full store"
        )
        saved = _grouped({(p, o): n for (p, o, _), n in self.saved.items()}, format_bytes)
        again = _grouped({(p, o): n for (p, o, _), n in self.recomputed.items()}, lambda n: f"{n} more runs")
        return "\n".join([head, *(f"  saved: {x}" for x in saved), *(f"  recomputed: {x}" for x in again)])


def plan_step(joint: JointRows, question: Question) -> StepPlan:
    """The plan that a question asks for.

    Raises
    ------
    ParameterError
        If the budget is below the smallest peak found, or no plan keeps the overhead.
    NotApplicable
        If the plan given was made for another model, other dtypes or smaller inputs.
    """
    nodes = [row.node for row in joint.rows]
    unit: Literal["picoseconds", "flops"] = "picoseconds"
    if question.minimize == "flops":
        prices, unit = flop_prices(nodes), "flops"
    elif question.device is not None:
        prices = roofline_prices(nodes, question.device)
    else:
        prices = measured_prices(nodes, seconds=PROFILE_SECONDS)
    problem = step_problem(joint, prices)
    full, resident = Planner(problem).plans[0], joint.resident_bytes
    budget: int | None = None
    if question.plan is not None:
        found = _taken_up(joint, problem, question.plan)
    elif question.max_overhead is not None:
        found = _smallest(problem, full.cost + int(full.cost * question.max_overhead), question, full)
    elif question.working is not None:
        found, budget = _within_working(joint, problem, question, full), question.working + resident
    else:
        assert question.budget is not None
        asked = question.budget
        budget = asked if isinstance(asked, int) else int((full.peak + resident) * asked)
        found = _within(problem, question, full, budget, resident)
    assert runs_through(joint, found.rows.tolist())
    return StepPlan(
        peak_bytes=found.peak + resident,
        full_store_bytes=full.peak + resident,
        resident_bytes=resident,
        budget_bytes=budget,
        price=found.cost,
        full_store_price=full.cost,
        unit=unit,
        joint=joint,
        rows=tuple(found.rows.tolist()),
    )


def step_problem(joint: JointRows, prices: Ints) -> Problem:
    """The planning problem of a joint graph: its rows and the storages that they make.

    A row that must come before another one makes a value of no bytes for it.
    """
    stored = [s for s, storage in enumerate(joint.storages) if storage.maker >= 0]
    number = {s: v for v, s in enumerate(stored)}
    sizes = [joint.storages[s].bytes for s in stored]
    touched = [[(number[s], READ) for s in row.reads] for row in joint.rows]
    made = [[(number[s], WRITE) for s in row.makes] for row in joint.rows]
    held = {number[s] for s in joint.held}
    for before, after in dict.fromkeys(joint.dependencies):
        made[before].append((len(sizes), WRITE))
        touched[after].append((len(sizes), READ))
        sizes.append(0)
    for row in made:
        if not row:  # what has an effect alone runs too
            row.append((len(sizes), WRITE))
            held.add(len(sizes))
            sizes.append(0)
    rows = [[*read, *write] for read, write in zip(touched, made, strict=True)]
    n, zeros = len(rows), np.zeros(len(rows), dtype=np.int64)
    return Problem(
        ptr=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32),
        value=np.array([v for row in rows for v, _ in row], dtype=np.int32),
        access=np.array([a for row in rows for _, a in row], dtype=np.uint8),
        cost=np.asarray(prices, dtype=np.int64),
        workspace=zeros,
        saving_workspace=zeros,
        value_bytes=np.array(sizes, dtype=np.int64),
        must=np.ones(n, dtype=np.bool_),
        once=np.array([row.once for row in joint.rows]),
        remains=np.isin(np.arange(len(sizes)), list(held)),
        order=np.arange(n, dtype=np.int32),
    )


def _plans(problem: Problem, budgets: Sequence[int], question: Question, known: Sequence[Plan] = ()) -> list[Plan]:
    starts = [p.rows for p in known]
    return plan(problem, budgets, effort=question.effort, seed=question.seed, starts=starts)


def _smallest(problem: Problem, most: int, question: Question, full: Plan) -> Plan:
    """The plan found with the smallest peak whose price is at most `most`: budgets close in on it."""
    low, high, known = Planner(problem).floor, full.peak, [full]
    for _ in range(NARROWINGS):
        budgets = np.linspace(low, high, POINTS + 1, dtype=np.int64)[:-1].tolist()
        known = _plans(problem, budgets, question, known)
        found = min((p for p in known if p.cost <= most), key=lambda p: p.peak)
        high, low = found.peak, max((b for b in budgets if b < found.peak), default=low)
    return found


def _within(problem: Problem, question: Question, full: Plan, budget: int, resident: int) -> Plan:
    """The cheapest plan found within a budget."""
    working = budget - question.reserve - resident
    if full.peak <= working:
        return full
    found = _plans(problem, [working], question) if working >= 0 else [full]
    if found[0].peak > working and len(problem) <= DEEPENED:
        planner = Planner(problem, seed=question.seed)
        planner.offer(found[0].rows)
        planner.deepen()
        found = planner.plans
    if found[0].peak > working:
        least = found[0].peak + resident + question.reserve
        reserve = f" and {format_bytes(question.reserve)} in reserve" if question.reserve else ""
        raise ParameterError(
            f"budget: got {format_bytes(budget)} ({budget} bytes), expected at least {format_bytes(least)} "
            f"({least} bytes), the smallest peak found for this step, with {format_bytes(resident)} of "
            f"parameters and inputs{reserve}; full store takes {format_bytes(full.peak + resident)}",
            parameter=("budget",),
        )
    return _cheapest(found, working)


def _within_working(joint: JointRows, problem: Problem, question: Question, full: Plan) -> Plan:
    """The cheapest plan found within working bytes, or with the caller's results and their cotangents on top."""
    working = question.working
    assert working is not None
    ends = {joint.storage_of[n] for n in joint.gradients if n is not None}
    made = (joint.held - ends).union(joint.rows[joint.boundary].makes)
    callers = sum(joint.storages[s].bytes for s in made)
    found = [full]
    for most in (working, working + callers):
        found = found if full.peak <= most else _plans(problem, [most], question, found)
        if found[0].peak <= most:
            return _cheapest(found, most)
    raise ParameterError(
        f"the plan takes {format_bytes(working)} beside parameters and inputs, "
        f"but the step takes at least {format_bytes(found[0].peak)}, the smallest peak found"
    )


def _cheapest(plans: Sequence[Plan], working: int) -> Plan:
    return min((p for p in plans if p.peak <= working), key=lambda p: (p.cost, p.peak))


def fingerprint(joint: JointRows) -> str:
    """16 hexadecimal digits of the calls of a joint graph and of what each reads; sizes do not count."""
    nodes = [n for n in joint.module.graph.nodes if n.op != "placeholder" or n in joint.storage_of]
    number = {n: i for i, n in enumerate(nodes)}
    calls = [
        (node.op, str(node.target) if node.op == "call_function" else "", [number[n] for n in node.all_input_nodes])
        for node in nodes
    ]
    return hashlib.sha256(json.dumps(calls).encode()).hexdigest()[:16]


def same_graph(one: JointRows, other: JointRows) -> bool:
    """Tell whether two joint graphs make the same calls on memory of the same sizes: one's plan is the other's."""
    sizes = [[(s.bytes, s.maker) for s in joint.storages] for joint in (one, other)]
    rows = [[(r.reads, r.makes, r.once, r.ordered, r.pinned) for r in joint.rows] for joint in (one, other)]
    return sizes[0] == sizes[1] and rows[0] == rows[1] and fingerprint(one) == fingerprint(other)


def _inputs(joint: JointRows) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype of parameters, buffers, inputs and tangents."""
    given = [n for n in joint.module.graph.find_nodes(op="placeholder") if n in joint.storage_of]
    return [(n.name, tuple(n.meta["val"].shape), str(n.meta["val"].dtype).removeprefix("torch.")) for n in given]


def _taken_up(joint: JointRows, problem: Problem, document: Mapping[str, Any]) -> Plan:
    """The plan of a document, with its peak and price on this graph."""
    if document.get("kind") != JOINT_GRAPH or document.get("version") != VERSION:
        raise NotApplicable(
            f"this is no plan of a training step: got kind {document.get('kind')!r}, version "
            f"{document.get('version')!r}, expected {JOINT_GRAPH!r}, version {VERSION}, as `StepPlan.write` writes it"
        )
    own, planned = _inputs(joint), document["inputs"]
    for (name, _, dtype), (_, _, expected) in zip(own, planned, strict=False):
        if dtype != expected:
            raise NotApplicable(f"the plan was made for another dtype: {name} is {dtype}, in the plan {expected}")
    if fingerprint(joint) != document["fingerprint"] or len(own) != len(planned):
        raise NotApplicable(
            f"the plan was made for another model: the fingerprint of its calls is {document['fingerprint']}, "
            f"that of this one is {fingerprint(joint)}"
        )
    for (name, shape, _), (_, expected, _) in zip(own, planned, strict=True):
        if any(a > b for a, b in zip(shape, expected, strict=True)):
            raise NotApplicable(
                f"{name} is {tuple(shape)}, but the plan was made for {tuple(expected)}: "
                "a larger input would take more memory than planned"
            )
    rows = np.array([r for first, last in document["rows"] for r in range(first, last + 1)], dtype=np.int32)
    if not runs_through(joint, rows.tolist()):
        raise NotApplicable(
            "the plan runs a call again that here draws random numbers or changes something; make it anew"
        )
    found = Planner(problem).offer(rows)
    if found.peak + joint.resident_bytes > document["peak_bytes"]:
        peak = format_bytes(found.peak + joint.resident_bytes)
        raise NotApplicable(f"the plan takes {peak} here, more than the {document['peak_bytes']} bytes it was made for")
    return found


def _runs(rows: Sequence[int]) -> list[list[int]]:
    """Rows in order as runs [first, last] of consecutive numbers."""
    runs: list[list[int]] = []
    for r in rows:
        if runs and runs[-1][1] == r - 1:
            runs[-1][1] = r
        else:
            runs.append([r, r])
    return runs


def _format_picoseconds(count: int) -> str:
    return format_seconds(count / PICOSECONDS)


def _grouped(told: Mapping[tuple[str, str], int], shown: Any) -> list[str]:
    """Lines that tell of operations by module, those of numbered modules together; the largest come first."""
    groups: dict[tuple[str, str], tuple[set[int], int]] = {}
    for (path, operation), amount in told.items():
        numbers = re.findall(r"(?<=\.)\d+(?=\.|$)|^\d+", path)
        pattern = path if not numbers else re.sub(rf"(^|\.){numbers[0]}(?=\.|$)", r"\1#", path, count=1)
        seen, total = groups.get((pattern, operation), (set[int](), 0))
        groups[pattern, operation] = (seen | set(map(int, numbers[:1])), total + amount)
    lines = []
    for (pattern, operation), (seen, total) in sorted(groups.items(), key=lambda g: -g[1][1]):
        where = pattern.replace("#", ",".join(f"{a}" if a == b else f"{a}–{b}" for a, b in _runs(sorted(seen))), 1)
        lines.append(f"{where or 'model'} {operation}: {shown(total)}")
    return lines
