"""Links: what messages and collectives take, on one machine and over several, and which links are missing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import ParameterError
from sim.parallel.job import Machine, Plan
from sim.parallel.links import PRESETS, Channel, Cluster, Link
from sim.parallel.sharding import Replicas

NEAR, FAR = Link(bytes_per_s=8e9, latency_s=1e-6), Link(bytes_per_s=1e9, latency_s=1e-5)


def test_collectives_on_one_link_are_those_of_the_textbook() -> None:
    """4 ranks, 4 kB, 1 GB/s, 10 us a hop: 3 rounds of 1 kB; an all-reduce twice, or by trees of 2 levels."""
    channel = Cluster(ranks=4, between=FAR).channel("data", count=4, stride=1)
    assert channel.seconds("all_gather", 4000) == pytest.approx(3 * (1e-5 + 1e-6))
    assert channel.seconds("reduce_scatter", 4000) == channel.seconds("all_gather", 4000)
    assert channel.seconds("all_to_all", 4000) == pytest.approx(3 * (1e-5 + 1e-6))
    ring, trees = 2 * 3 * (1e-5 + 1e-6), 2 * 2 * 1e-5 + 2 * 4e-6
    assert channel.seconds("all_reduce", 4000) == pytest.approx(min(ring, trees))
    assert channel.seconds("all_reduce", 4 * 10**9) == pytest.approx(2 * 3 * (1e-5 + 1.0))


def steps_of_a_ring(shares: int, hop_bytes_per_s: list[float], share: float) -> float:
    """A reduce-scatter round by round: every rank sends a share to the next, and the slowest hop decides."""
    return sum(max(share / rate for rate in hop_bytes_per_s) for _ in range(shares - 1))


@given(machines=st.integers(1, 4), devices=st.integers(1, 8), size=st.integers(1, 10**9))
def test_a_ring_over_machines_goes_as_fast_as_its_slowest_hop(machines: int, devices: int, size: int) -> None:
    """A group that fills its machines leaves each by all its ports, as that many rings side by side do."""
    count = machines * devices
    cluster = Cluster(ranks=count, devices=devices, inside=Link(bytes_per_s=8e9), between=Link(bytes_per_s=1e9))
    channel = cluster.channel("data", count=count, stride=1)
    hops = [8e9] * (devices > 1) + [1e9 * devices] * (machines > 1)
    expected = steps_of_a_ring(count, hops, size / count) if count > 1 else 0.0
    assert channel.seconds("all_gather", size) == pytest.approx(expected)


@given(count=st.integers(2, 64), size=st.integers(0, 10**9))
def test_an_all_reduce_is_never_slower_than_its_two_halves(count: int, size: int) -> None:
    channel = Channel(count, 1e9, (count - 1) * 1e-6, 6e-6, 0.0, 1e9)
    halves = channel.seconds("reduce_scatter", size) + channel.seconds("all_gather", size)
    assert channel.seconds("all_reduce", size) <= halves


def test_what_leaves_the_machine_in_an_all_to_all_goes_by_each_ranks_own_port() -> None:
    """8 ranks on 2 machines: of each rank's 8 kB 3 stay inside and 4 leave."""
    cluster = Cluster(ranks=8, devices=4, inside=Link(bytes_per_s=1e12), between=Link(bytes_per_s=1e9))
    assert cluster.channel("expert", count=8, stride=1).seconds("all_to_all", 8000) == pytest.approx(4e-6)


def test_ranks_share_the_port_of_their_machine() -> None:
    """Four groups of 2, one rank of each on either machine: a quarter of the shared port for each; so for sends."""
    shared = Link(bytes_per_s=1e9, shared=True)
    own, common = (Cluster(ranks=8, devices=4, inside=NEAR, between=x) for x in (Link(bytes_per_s=1e9), shared))
    seconds = [c.channel("data", count=2, stride=4).seconds("all_gather", 8000) for c in (own, common)]
    assert seconds == pytest.approx([4e-6, 16e-6])
    assert common.link(0, 4, alike=4).transfer(1000).seconds == pytest.approx(4e-6)
    assert own.link(0, 4, alike=4).transfer(1000).seconds == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("plan", "stages", "message"),
    [
        (Plan(tensor=16, machine=Machine(devices=8, link=NEAR)), 1, "the 16 ranks of `tensor` are on several machines"),
        (Plan(tensor=2, machine=Machine(devices=8), link=FAR), 1, "the 2 ranks of `tensor` are on one machine, and no"),
        (
            Plan(replicas=Replicas(count=16), machine=Machine(devices=8, link=NEAR)), 1,
            "the 16 ranks of `data` are on several machines of 8, and no link between machines is given",
        ),
    ],
)  # fmt: skip
def test_a_link_that_is_missing_is_refused(plan: Plan, stages: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        plan.channels(plan.cluster(stages), stages)


@given(
    tensor=st.sampled_from([1, 2, 4]), context=st.sampled_from([1, 2]), stages=st.sampled_from([1, 2, 3]),
    data=st.sampled_from([1, 2, 4]), devices=st.sampled_from([1, 2, 4, 8]),
)  # fmt: skip
def test_groups_have_as_many_ranks_on_a_machine_as_the_numbering_says(
    tensor: int, context: int, stages: int, data: int, devices: int
) -> None:
    """Ranks written out, tensor fastest: a channel takes no more for near than the emptiest machine has."""
    plan = Plan(tensor=tensor, context=context, replicas=Replicas(count=data * context),
                machine=Machine(devices=devices, link=NEAR), link=FAR)  # fmt: skip
    ranks = [
        (t, c, p, d) for d, p, c, t in itertools.product(range(data), range(stages), range(context), range(tensor))
    ]
    channels = plan.channels(plan.cluster(stages), stages)
    assert plan.cluster(stages).ranks == len(ranks)
    for name, fixed in (("tensor", (1, 2, 3)), ("context", (0, 2, 3)), ("data", (0, 2))):
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, rank in enumerate(ranks):
            groups.setdefault(tuple(rank[k] for k in fixed), []).append(number // devices)
        least = min(min(group.count(machine) for machine in group) for group in groups.values())
        channel = channels[name]
        assert channel.ranks == len(next(iter(groups.values())))
        near = round(channel.ranks * (1 - channel.far)) if channel.ranks > 1 else 1
        assert near <= least


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_where_its_numbers_are_from(name: str) -> None:
    assert len(PRESETS[name].source) > 60
