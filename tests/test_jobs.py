"""Jobs: stages of a graph over ranks, what each holds, what replicas share, and whether it fits."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from fractions import Fraction

import pytest
from graphs import graphs
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pipelines import made

import sim
from sim.base.errors import ParameterError
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node
from sim.models.families.transformer import transformer
from sim.models.shards import Shards
from sim.parallel import job as jobs
from sim.parallel.cuts import cut, seconds_of
from sim.parallel.job import JobTrace, Machine, Plan
from sim.parallel.links import Link
from sim.parallel.pipeline import Part, PipelineSchedule
from sim.parallel.sharding import Precision, Replicas, resident_bytes
from sim.parallel.stages import RowTimes, stages_of
from sim.schedules.table import base_table
from sim.schedules.values import ACCUMULATE, ACTIVATION, CONSUME, COTANGENT, GRADIENT, READ, RESIDUAL, SAVE, WRITE
from sim.simulation.device import PRESETS

DEVICE = PRESETS["a100-80"]
MODELS: Mapping[str, Graph] = {
    "mlp": sim.mlp(widths=[64, 32, 16, 32, 10], batch=8, loss="cross_entropy"),
    "resnet18": sim.cnn(preset="resnet18", batch=2, loss="cross_entropy"),
    "gpt": sim.transformer(
        layers=4, hidden=64, heads=4, sequence=32, vocab=100, batch=2, dropout=0.1, loss="cross_entropy"
    ),
}


def run(graph: Graph, schedule: PipelineSchedule, plan: Plan) -> JobTrace:
    return jobs.run(graph, schedule, plan, stages=schedule.ranks, device=DEVICE)


@pytest.mark.parametrize("preallocated", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_one_stage_and_one_replica_is_the_simulation_of_one_device(
    name: str, schedule: str, preallocated: bool
) -> None:
    graph = MODELS[name].configured(preallocated_gradients=preallocated, optimizer="adam")
    job = run(graph, made(schedule, 1, 1), Plan())
    alone = sim.schedule(graph, "reverse_full")
    cost, trace = sim.replay(alone), sim.simulate(alone, DEVICE)
    assert job.peak_bytes(0) == cost.peak_bytes
    assert job.seconds == pytest.approx(trace.seconds)
    assert sum(job.flops().values()) == cost.flops.total


@given(graph=graphs(wrt="parameters"))
def test_one_stage_of_any_graph_is_the_replay_of_full_store(graph: Graph) -> None:
    assume(graph.output_scalars == 1)
    cost = sim.replay(sim.schedule(graph, "reverse_full"))
    assert run(graph, made("gpipe", 1, 1), Plan()).memory[0].peak_bytes == cost.working_bytes


def levels_step_by_step(graph: Graph, job: JobTrace, rank: int) -> int:
    """The most bytes that come and go on a rank, messages left out: value by value, one row after another.

    Each value of each micro-batch lives from the row that makes it to the last of the rank that reads it; what
    comes from another rank from the start of the pass that first reads it, and what goes there, to the end of the
    pass that makes it at least.
    """
    table, n = base_table(graph, jvp=False), len(graph)
    rows: list[tuple[int, dict[tuple[int, int], int], bool, bool]] = []
    for timed in job.pipeline.ranks[rank]:
        part, number, micro_batch = timed.at
        stage = job.stages[number]
        nodes = range(stage.start, stage.stop)
        order = (
            list(nodes) if part is Part.FORWARD else [n + k for k in reversed(nodes) if graph.active[_first(graph) + k]]
        )
        for k, row in enumerate(order):
            touches = {}
            for value, access in table.touches(row).items():
                touches[value, -1 if value // n == GRADIENT else micro_batch] = access
            rows.append((row, touches, k == 0, k == len(order) - 1))
    sizes = table.columns.value_bytes
    uses: dict[tuple[int, int], list[int]] = {}
    for k, (_, touches, _, _) in enumerate(rows):
        for value in touches:
            uses.setdefault(value, []).append(k)
    first_of_pass, last_of_pass = {}, {}
    begin = 0
    for k, (_, _, first, last) in enumerate(rows):
        begin = k if first else begin
        first_of_pass[k] = begin
        if last:
            for j in range(begin, k + 1):
                last_of_pass[j] = k
    change_at_start, change_at_end = [0] * len(rows), [0] * len(rows)
    for (value, micro_batch), places in uses.items():
        kind, node = divmod(value, n)
        born, dies = places[0], places[-1]
        if kind == GRADIENT:
            change_at_start[born] += 0 if graph.preallocated_gradients else int(graph.columns.param_bytes[node])
            continue
        access = rows[born][1][value, micro_batch]
        stage = next(s for s in job.stages if s.start <= _node(rows[born][0], n) < s.stop)
        if access in (READ, CONSUME):
            born = first_of_pass[born]
        if kind == RESIDUAL and len(places) == 1:
            continue
        if kind == ACTIVATION and access == WRITE and node == stage.stop - 1 < n - 1:
            dies = max(dies, last_of_pass[born])
        if kind == COTANGENT and access == ACCUMULATE and node < stage.start:
            dies = last_of_pass[born]
        change_at_start[born] += int(sizes[value])
        change_at_end[dies] -= int(sizes[value])
    level = most = 0
    for k, (row, touches, _, _) in enumerate(rows):
        saves = any(a == SAVE and len(uses[v]) > 1 for v, a in touches.items())
        c = table.columns
        level += change_at_start[k]
        most = max(most, level + int(c.saving_workspace[row] if row < n and saves else c.workspace[row]))
        level += change_at_end[k]
    return most


def _first(graph: Graph) -> int:
    return len(graph.inputs)


def _node(row: int, n: int) -> int:
    return row % n


@given(
    graph=graphs(wrt="parameters"), ranks=st.integers(1, 3), micro_batches=st.integers(1, 5),
    name=st.sampled_from(["gpipe", "1f1b"]),
)  # fmt: skip
def test_what_a_rank_holds_is_what_a_walk_value_by_value_finds(
    graph: Graph, ranks: int, micro_batches: int, name: str
) -> None:
    assume(len(graph.articulation_points) > ranks)
    job = run(graph, made(name, ranks, micro_batches), Plan())
    for rank in range(ranks):
        assert (job.memory[rank].levels >= 0).all()
        without_messages = job.memory[rank].levels[:, :5].sum(axis=1)
        assert without_messages.max() == levels_step_by_step(graph, job, rank)


@given(graph=graphs(wrt="parameters"), how=st.sampled_from(["none", "block", "selective"]), data=st.data())
def test_every_part_gives_back_what_it_takes(graph: Graph, how: str, data: st.DataObject) -> None:
    """Whether VJPs are split or not, and whatever is recomputed, nothing but gradients is left after a step."""
    ranks = data.draw(st.integers(1, min(3, len(graph.articulation_points) - 1)))
    name = data.draw(st.sampled_from(["1f1b", "zb_h1", "zb_h2"]))
    job = run(graph, made(name, ranks, 4), Plan(recompute=(how,)))  # type: ignore[arg-type]
    for rank in range(ranks):
        memory, stage = job.memory[rank], job.stages[rank]
        assert (memory.levels >= 0).all()
        gradients = 0 if graph.preallocated_gradients else sum(int(graph.columns.param_bytes[k]) for k in stage.owners)
        assert memory.levels[-1].tolist() == [0, 0, gradients, 0, 0, 0]


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_flops_are_conserved_over_stages(name: str) -> None:
    graph = MODELS[name]
    starts = cut(graph, 3)
    stages = stages_of(graph, starts, RowTimes.of(seconds_of(graph, DEVICE)), recompute=["none"] * 3)
    assert (starts[0], starts[-1]) == (0, len(graph))
    assert frozenset().union(*(s.owners for s in stages)) == frozenset(graph.gradient_of.tolist()) - {-1}
    assert sum(s.flops["primal"] for s in stages) == graph.forward_flops
    for s in stages:
        whole, parts = s.profiles[Part.VJP], [s.profiles[p] for p in (Part.INPUT_VJP, Part.WEIGHT_VJP)]
        assert whole.seconds.sum() == pytest.approx(sum(p.seconds.sum() for p in parts))


def test_cuts_make_the_largest_work_least() -> None:
    """Costs 5, 1, 1, 1, 5, 2 in three stages: 5 | 1 1 1 | 5 2 has 7 at most, and no cut has less."""
    nodes = [
        Node(
            name=f"n{k}",
            inputs=(f"n{k - 1}" if k else "x",),
            output_shape=(1, 1),
            forward_flops=cost,
            vjp_flops=0,
            param_size=1,
        )
        for k, cost in enumerate([5, 1, 1, 1, 5, 2])
    ]
    graph = Graph.from_nodes(nodes, [GraphInput("x", (1, 1))])
    starts = cut(graph, 3)
    work = [sum([5, 1, 1, 1, 5, 2][a:b]) for a, b in itertools.pairwise(starts)]
    assert max(work) == 7
    assert cut(graph, 3, after=["n1", "n3"]) == (0, 2, 4, 6)


@given(work=st.lists(st.integers(0, 9), min_size=3, max_size=9), count=st.integers(1, 3))
def test_no_cut_has_a_smaller_largest_work(work: list[int], count: int) -> None:
    nodes = [
        Node(name=f"n{k}", inputs=(f"n{k - 1}" if k else "x",), output_shape=(1, 1), forward_flops=cost, vjp_flops=0,
             param_size=1)
        for k, cost in enumerate(work)
    ]  # fmt: skip
    starts = cut(Graph.from_nodes(nodes, [GraphInput("x", (1, 1))]), count)
    ways = [(0, *inner, len(work)) for inner in itertools.combinations(range(1, len(work)), count - 1)]

    def largest(way: tuple[int, ...]) -> int:
        return max(sum(work[a:b]) for a, b in itertools.pairwise(way))

    assert starts in ways
    assert largest(starts) == min(map(largest, ways))


def test_in_flight_micro_batches_multiply_what_one_keeps() -> None:
    """Equal blocks under 1F1B: rank i keeps the activations of p - i micro-batches, and rank 0 holds most."""
    graph = sim.mlp(widths=[64] * 9, batch=4, loss="none")
    job = run(graph, made("1f1b", 4, 8), Plan())
    kept = [int(stage.profiles[Part.FORWARD].taken[:, 0].sum() - stage.profiles[Part.FORWARD].freed[:, 0].sum())
            for stage in job.stages]  # fmt: skip
    held = [max(job.memory[rank].levels[:, 0]) for rank in range(4)]
    for rank in range(4):
        assert (4 - rank) * kept[rank] <= held[rank] <= (4 - rank + 1) * kept[rank] + 4 * 64 * 4


def test_recomputing_blocks_keeps_their_inputs_alone() -> None:
    """What is left of four blocks after the forward pass: four inputs, of batch × sequence × hidden × 4 bytes each."""
    graph = sim.transformer(layers=4, hidden=64, heads=4, sequence=32, batch=2, dropout=0.1)
    (stage,) = stages_of(graph, cut(graph, 1), None, recompute=["block"])
    forward = stage.profiles[Part.FORWARD]
    assert int(forward.taken.sum() - forward.freed.sum()) == 3 * 2 * 32 * 64 * 4  # the first is the graph's input
    assert stage.flops["recompute"] <= stage.flops["primal"]
    (selective,) = stages_of(graph, cut(graph, 1), None, recompute=["selective"])
    attention = sum(n.forward_flops for n in graph.nodes if "scores" in n.name or "softmax" in n.name)
    assert selective.flops["recompute"] == attention


@pytest.mark.parametrize(("zero", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_shares_what_its_paper_says(zero: int, gigabytes: float) -> None:
    """Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, figure 1: 7.5 B parameters, 64 replicas, mixed Adam."""
    node = Node(name="n", inputs=("x",), output_shape=(1, 1), dtype="float16", param_size=7_500_000_000)
    graph = Graph.from_nodes([node], [GraphInput("x", (1, 1), "float16", constant=True)])
    graph = graph.configured(optimizer="adam", preallocated_gradients=True)
    stages = stages_of(graph, (0, 1), None, recompute=["none"])
    held = resident_bytes(
        graph,
        [stage.span for stage in stages],
        Replicas(count=64, zero=zero),
        Precision(main="float32", optimizer="float32"),
    )  # type: ignore[arg-type]
    assert round(sum(held.values()) / 1e9, 1) == gigabytes


@pytest.mark.parametrize(("prefetch", "blocks", "whole"), [(0, 1, 1), (1, 1, 2), (2, 1, 3), (0, 2, 2), (1, 2, 4)])
def test_under_zero_3_a_unit_is_whole_only_while_it_runs_or_is_next(prefetch: int, blocks: int, whole: int) -> None:
    graph = sim.mlp(widths=[64] * 9, batch=4, loss="none")
    layer = 64 * 65 * 4
    replicas = Replicas(count=4, zero=3, prefetch=prefetch, blocks=blocks)
    job = run(graph, made("gpipe", 1, 2), Plan(replicas=replicas))
    assert job.resident[0]["parameters"] == job.resident[0]["gradients"] == 8 * layer // 4
    assert job.memory[0].levels[:, 3].max() == whole * layer
    assert job.memory[0].levels[:, 2].max() == blocks * layer
    assert job.memory[0].levels[-1].tolist() == [0] * 6


def test_parameters_that_are_not_resharded_stay() -> None:
    graph = sim.mlp(widths=[64] * 9, batch=4, loss="none")
    job = run(graph, made("gpipe", 1, 2), Plan(replicas=Replicas(count=4, zero=3, reshard=False)))
    assert job.resident[0]["parameters"] == 8 * 64 * 65 * 4 * 5 // 4
    assert job.memory[0].levels[:, 3].max() == 0


LAYERS = 4
LAYER = 64 * 65 * 4


def gathered(bytes_per_s: float, **replicas: int) -> tuple[JobTrace, list[float], list[float], float]:
    """A job of equal layers on two replicas, seconds of its units forward and back, and of one unit's collective."""
    graph = sim.mlp(widths=[64] * (LAYERS + 1), batch=64, loss="none", activation="none")
    plan = Plan(replicas=Replicas(count=2, **replicas), link=Link(bytes_per_s=bytes_per_s))  # type: ignore[arg-type]
    forward, back = seconds_of(graph, DEVICE).tolist()
    return run(graph, made("gpipe", 1, 1), plan), forward, back[::-1], LAYER / 2 / bytes_per_s


@pytest.mark.parametrize("bytes_per_s", [1e7, 1e12])
def test_a_unit_is_gathered_while_the_one_before_runs(bytes_per_s: float) -> None:
    """Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277, section 3.3: a fast link delays the first unit alone.

    On a slow one all gathers follow each other, and with them in the VJP the reductions, which wait for their unit.
    """
    job, forward, back, move = gathered(bytes_per_s, zero=3)
    (first, second) = job.pipeline.ranks[0]
    if move > max(forward + back):
        assert first.end - first.start == pytest.approx(LAYERS * move + forward[-1])
        assert second.end - second.start == pytest.approx(2 * LAYERS * move)
    else:
        assert first.end - first.start == pytest.approx(move + sum(forward))
        assert second.end - second.start == pytest.approx(2 * move + sum(back))
    assert job.communication_seconds(0) == pytest.approx(3 * LAYERS * move)
    assert job.waiting_seconds(0) == pytest.approx(job.seconds - sum(forward + back))


def test_without_prefetch_every_unit_waits() -> None:
    job, forward, _, move = gathered(1e10, zero=3, prefetch=0)
    (first, _) = job.pipeline.ranks[0]
    assert first.end - first.start == pytest.approx(LAYERS * move + sum(forward))


@pytest.mark.parametrize("bytes_per_s", [1e7, 1e12])
@pytest.mark.parametrize("zero", [0, 1])
def test_gradients_are_reduced_while_the_vjp_goes_on(zero: int, bytes_per_s: float) -> None:
    """The first is there after one layer's VJP; under ZeRO-1 half an all-reduce, and all parameters at the end."""
    job, forward, back, move = gathered(bytes_per_s, zero=zero)
    reduce = move if zero else 2 * move
    slow = reduce > max(back)
    end = sum(forward) + (back[0] + LAYERS * reduce if slow else sum(back) + reduce)
    assert job.seconds == pytest.approx(end + zero * LAYERS * move)
    assert job.shared_seconds[0] == pytest.approx(2 * LAYERS * move)


def test_ranks_that_divide_layers_wait_for_their_sums() -> None:
    """One block on 4 ranks, each sum of sbh scalars: one after either half, and those of cotangents beside the rest."""
    sizes = {"layers": 1, "hidden": 64, "heads": 4, "sequence": 32, "batch": 2, "loss": "sum"}
    graph = transformer(Shards(4), **sizes)  # type: ignore[arg-type]
    link = Link(bytes_per_s=1e6, latency_s=1e-3)
    free, job = (run(graph, made("gpipe", 1, 1), Plan(tensor=4, link=x)) for x in (None, link))
    size = 32 * 2 * 64 * 4
    reduce = min(2 * 3 * (1e-3 + size / 4 / 1e6), 2 * (2 * 1e-3 + size / 1e6))
    compute = dict(zip([n.name for n in graph.nodes], seconds_of(graph, DEVICE)[1].tolist(), strict=True))
    hidden = compute["block1.attn.q"] + compute["block1.mlp.up"]
    assert job.seconds == pytest.approx(free.seconds + 4 * reduce - hidden)
    assert job.communication_seconds(0) == pytest.approx(4 * reduce)
    fast = run(graph, made("gpipe", 1, 1), Plan(tensor=4, link=Link(bytes_per_s=1e12)))
    assert fast.seconds == pytest.approx(free.seconds + 2 * (2 * 3 / 4 * size / 1e12))


@given(
    shards=st.sampled_from([Shards(), Shards(2), Shards(2, True), Shards(context=2), Shards(2, True, 2, 2)]),
    zero=st.sampled_from([0, 1, 2, 3]), name=st.sampled_from(["gpipe", "1f1b", "zb_h1"]), ranks=st.integers(1, 3),
    prefetch=st.integers(0, 2), reshard=st.booleans(), devices=st.sampled_from([1, 2, 4, 8]),
    gbytes_per_s=st.lists(st.floats(0.01, 1000), min_size=2, max_size=2),
)  # fmt: skip
@settings(max_examples=20)
def test_a_faster_link_never_makes_a_step_longer(
    shards: Shards, zero: int, name: str, ranks: int, prefetch: int, reshard: bool, devices: int,
    gbytes_per_s: list[float],
) -> None:  # fmt: skip
    """And no step is shorter than that with free links, or longer than all computation and communication in turn."""
    experts = 4 * (shards.expert > 1)
    graph = transformer(
        shards, layers=3, hidden=16, heads=4, sequence=8, batch=2, vocab=32, tied=False, experts=experts, loss="mean"
    )
    cuts = tuple(f"block{k}.{'moe' if experts else 'mlp'}.add" for k in range(1, ranks))
    count = 2 * shards.context
    replicas = Replicas(
        count=count, zero=zero, expert=shards.expert, prefetch=prefetch, reshard=reshard  # type: ignore[arg-type]
    )  # fmt: skip
    plan = Plan(tensor=shards.tensor, sequence=shards.sequence, context=shards.context, replicas=replicas, cuts=cuts)
    schedule = made(name, ranks, 4)
    slow, fast = (Link(bytes_per_s=1e9 * rate, latency_s=1e-6) for rate in sorted(gbytes_per_s))
    linked = [dataclasses.replace(plan, link=x, machine=Machine(devices=devices, link=x)) for x in (fast, slow)]
    jobs = [run(graph, schedule, one) for one in (plan, *linked)]
    seconds = [job.seconds for job in jobs]
    assert seconds == sorted(seconds) or seconds == pytest.approx(sorted(seconds))
    for job in jobs:
        busy = sum(job.pipeline.busy_seconds(rank) - job.waiting_seconds(rank) for rank in range(ranks))
        assert job.seconds <= (busy + sum(map(job.communication_seconds, range(ranks)))) * (1 + 1e-9)


def test_experts_divided_among_replicas_have_fewer_of_them() -> None:
    """Of 4 replicas 2 have each expert: their optimizer's state is halved, that of all else divided by 4."""
    sizes = {"layers": 1, "hidden": 8, "heads": 2, "sequence": 4, "experts": 4, "bias": False, "loss": "sum"}
    graph = transformer(Shards(expert=2), **sizes).configured(optimizer="adam")  # type: ignore[arg-type]
    (stage,) = stages_of(graph, (0, len(graph)), None, recompute=["none"])
    held = resident_bytes(graph, [stage.span], Replicas(count=4, zero=1, expert=2), Precision())
    experts = 2 * (8 * 32 * 2) * 4
    others = (4 * 8 * 8 + 2 * 2 * 8 + 8 * 4) * 4
    assert held["parameters"] == experts + others
    assert held["optimizer"] == experts + others // 2


def test_a_message_holds_bytes_until_it_ends() -> None:
    """Two stages of equal layers: what is sent is on the sender, as communication, as long as the link is busy."""
    graph = sim.mlp(widths=[64] * 3, batch=4, loss="none")
    slow = Link(bytes_per_s=1e6, latency_s=0.0)
    job = run(graph, made("gpipe", 2, 1), Plan(link=slow))
    (forward, back) = sorted(job.pipeline.sends, key=lambda send: send.start)
    size = job.stages[0].forward.bytes
    assert size == 4 * 64 * 4
    assert forward.end - forward.start == pytest.approx(size / 1e6)
    for rank, send in ((1, forward), (0, back)):
        memory = job.memory[rank]
        during = (memory.times >= send.start) & (memory.times < send.end)
        assert during.any()
        assert (memory.levels[during, 5] == size).all()


def test_collectives_take_a_ring() -> None:
    """2(d - 1)/d of the gradients' bytes over the bandwidth, and 2(d - 1) latencies, for an all-reduce of d ranks."""
    graph = sim.mlp(widths=[64, 64], batch=4, loss="none")
    link = Link(bytes_per_s=1e9, latency_s=1e-6)
    alone = run(graph, made("gpipe", 1, 1), Plan(link=link))
    four = run(graph, made("gpipe", 1, 1), Plan(link=link, replicas=Replicas(count=4)))
    size = 64 * 65 * 4
    assert four.seconds - alone.seconds == pytest.approx(2 * 3 / 4 * size / 1e9 + 6e-6)


@pytest.mark.parametrize(
    ("plan", "ranks", "message"),
    [
        (Plan(), 9, "got 9 stages, expected at most 8: the graph has 7 places where a single activation crosses"),
        (Plan(cuts=("relu1",)), 3, "got 1 cuts, expected 2 for 3 stages"),
        (Plan(cuts=("no_such",)), 2, "cannot cut after 'no_such': no node has that name"),
        (Plan(cuts=("loss",)), 2, "cannot cut after 'loss': nothing is left behind it"),
        (Plan(recompute=("none", "block")), 3, "got 2 entries, expected 1 or 3"),
    ],
)
def test_a_job_that_cannot_be_says_why(plan: Plan, ranks: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        run(MODELS["mlp"], made("1f1b", ranks, 4), plan)


def test_a_cut_through_a_skip_says_what_would_be_sent() -> None:
    """The block's input and its norm, of 2 · 32 · 64 float32 scalars each."""
    with pytest.raises(ParameterError, match=r"2 activations cross there, 32.8 kB of positions, block1.norm1; a stage"):
        run(MODELS["gpt"], made("1f1b", 2, 4), Plan(cuts=("block1.norm1",)))


def test_parameters_may_be_held_in_another_dtype_than_they_are_used_in() -> None:
    """FSDP's mixed precision: float32 shares, gathered in the 16 bits that the graph computes in."""
    graph = sim.mlp(widths=[64] * 3, batch=4, loss="none", dtype="bfloat16")
    precision = Precision(parameters="float32")
    job = run(graph, made("gpipe", 1, 1), Plan(replicas=Replicas(count=4, zero=3, prefetch=0), precision=precision))
    assert job.resident[0]["parameters"] == 2 * 64 * 65 * 4 // 4
    assert job.memory[0].levels[:, 3].max() == 64 * 65 * 2


@pytest.mark.parametrize("recompute", ["none", "selective", "block"])
@pytest.mark.parametrize(("tensor", "sequence"), [(1, False), (2, False), (8, False), (2, True), (8, True)])
def test_activations_of_a_layer_are_those_of_the_formula(tensor: int, sequence: bool, recompute: str) -> None:
    """Korthikanti et al. 2022, arXiv:2205.05198, table 2, beside the statistics of two norms, which it leaves out.

    Bytes of 16 bits: sbh(34 + 5as/h) on one rank; sbh(10 + 24/t + 5as/(ht)) of t; with sequence parallelism
    sbh(34 + 5as/h)/t; selective recomputation leaves out 5as/h; full recomputation keeps 2sbh, of which the
    first layer's is the graph's input here.
    """
    s, b, h, a, layers = 64, 2, 128, 8, 3
    graph = transformer(
        Shards(tensor, sequence), layers=layers, hidden=h, heads=a, sequence=s, batch=b, dropout=0.1,
        attention_dropout=0.1, dtype="bfloat16",
    )  # fmt: skip
    (stage,) = stages_of(graph, cut(graph, 1), None, recompute=[recompute])  # type: ignore[list-item]
    forward = stage.profiles[Part.FORWARD]
    kept = int(forward.taken.sum() - forward.freed.sum())
    core = 0 if recompute == "selective" else Fraction(5 * a * s, h)
    per_layer = s * b * h * (Fraction(34 + core) / tensor if sequence else 10 + Fraction(24 + core) / tensor)
    shares = tensor if sequence else 1
    first = 2 * s * b * h // shares  # the input of the graph
    if recompute == "block":
        assert kept == (layers - 1) * 2 * s * b * h // shares
    else:
        statistics = layers * 2 * 8 * s * b // shares
        assert kept == layers * per_layer - first + statistics


@pytest.mark.parametrize(("sequence", "recompute", "gibibytes"), [(False, "none", 59.25), (True, "selective", 9.5625)])
def test_the_22b_model_keeps_what_its_paper_says(sequence: bool, recompute: str, gibibytes: float) -> None:
    """Korthikanti et al. 2022, arXiv:2205.05198: 48 layers, h 6144, a 64, s 2048, 8 ranks, micro-batches of 4."""
    graph = transformer(
        Shards(8, sequence), layers=2, hidden=6144, heads=64, sequence=2048, batch=4, dropout=0.1,
        attention_dropout=0.1, dtype="bfloat16",
    )  # fmt: skip
    (stage,) = stages_of(graph, cut(graph, 1), None, recompute=[recompute])  # type: ignore[list-item]
    forward = stage.profiles[Part.FORWARD]
    shares = 8 if sequence else 1
    inputs, statistics = 2 * 2048 * 4 * 6144 // shares, 2 * 2 * 8 * 2048 * 4 // shares
    kept = int(forward.taken.sum() - forward.freed.sum()) + inputs - statistics
    assert kept * 24 / 2**30 == gibibytes


@pytest.mark.parametrize("tensor", [2, 4])
def test_shares_of_a_transformer_add_up(tensor: int) -> None:
    """Weights, products and tensors of all heads are divided; norms, biases after sums and positions are not."""
    sizes = {"layers": 2, "hidden": 64, "heads": 4, "sequence": 32, "vocab": 128, "batch": 2, "bias": False}
    whole = sim.transformer(**sizes)
    for sequence in (False, True):
        share = transformer(Shards(tensor, sequence), **sizes)  # type: ignore[arg-type]
        for one, part in zip(whole.nodes, share.nodes, strict=True):
            if one.op in ("linear", "attention_scores", "attention_context", "embedding"):
                assert part.param_size * tensor == one.param_size
                assert part.forward_flops * tensor == one.forward_flops
            elif one.op in ("layer_norm", "positions"):
                assert part.param_size == one.param_size
                assert math.prod(part.output_shape) * (tensor if sequence else 1) == math.prod(one.output_shape)
