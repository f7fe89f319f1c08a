"""Links between ranks: presets with their source, and what messages and collectives take on them.

Ranks are numbered with those that share a layer next to each other: tensor, then context, then the stages of a
pipeline, then replicas, the order in which they need their links (Grattafiori et al. 2024, The Llama 3 herd of
models, arXiv:2407.21783, section 3.3.2). Machines hold equal numbers of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from sim.base.errors import ParameterError
from sim.graphs.node import Collective
from sim.parallel.times import Transfer


@dataclass(frozen=True, kw_only=True)
class Link:
    """The way of a rank's bytes to others: bytes a second in one direction, and seconds until the first is there.

    A `shared` one is that of all ranks of a machine together.
    """

    bytes_per_s: float
    latency_s: float = 0.0
    shared: bool = False
    source: str = ""

    def transfer(self, count: int) -> Transfer:
        """A message of so many bytes."""
        return Transfer(count / self.bytes_per_s, self.latency_s)


_LATENCY = "Latency: NCCL, src/graph/tuning.cc, hardware latency of a ring's step in the simple protocol."
_NVLINK_S, _PCIE_S, _NETWORK_S = 3.4e-6, 5.7e-6, 14e-6


def _preset(gbytes_per_s: float, latency_s: float, source: str, *, shared: bool = False) -> Link:
    return Link(bytes_per_s=gbytes_per_s * 1e9, latency_s=latency_s, shared=shared, source=f"{source} {_LATENCY}")


PRESETS: Mapping[str, Link] = MappingProxyType(
    {
        "nvlink2": _preset(150, _NVLINK_S, "NVIDIA V100 data sheet: 300 GB/s in both directions together."),
        "nvlink3": _preset(300, _NVLINK_S, "NVIDIA A100 data sheet: 600 GB/s in both directions together."),
        "nvlink4": _preset(450, _NVLINK_S, "NVIDIA H100 data sheet, SXM: 900 GB/s in both directions together."),
        "pcie3": _preset(16, _PCIE_S, "PCI Express 3.0 ×16: 8 GT/s a lane, 16 GB/s a direction."),
        "pcie4": _preset(32, _PCIE_S, "PCI Express 4.0 ×16: 16 GT/s a lane, 32 GB/s a direction."),
        "pcie5": _preset(64, _PCIE_S, "PCI Express 5.0 ×16: 32 GT/s a lane, 64 GB/s a direction."),
        "infiniband-hdr": _preset(25, _NETWORK_S, "NVIDIA ConnectX-6 data sheet: 200 Gb/s, a port for each rank."),
        "infiniband-ndr": _preset(50, _NETWORK_S, "NVIDIA ConnectX-7 data sheet: 400 Gb/s, a port for each rank."),
        "roce-400": _preset(50, _NETWORK_S, "Llama 3 (arXiv:2407.21783), 3.3.1: 400 Gb/s, a port for each rank."),
        "ethernet-100": _preset(
            12.5, _NETWORK_S, "IEEE 802.3: 100 Gb/s, one port for all ranks of a machine.", shared=True
        ),
    }
)
"""The links that a scenario may name: their peaks, of which collectives reach some four fifths."""


class Channel(NamedTuple):
    """What a group of ranks moves its collectives on.

    `hop_s` are the latencies of the hops of a ring, `levels_s` those of the levels of a tree. `far` is the share of
    an all-to-all that leaves the machine, for which each rank has `far_bytes_per_s`.
    """

    ranks: int
    bytes_per_s: float
    hop_s: float
    levels_s: float
    far: float
    far_bytes_per_s: float

    def seconds(self, kind: str, count: int) -> float:
        """Seconds of a collective of so many bytes, as in `Collective`.

        A ring passes each share on ranks - 1 times to gather or to scatter, and both for an all-reduce (Thakur,
        Rabenseifner, Gropp 2005, Optimization of collective communication operations in MPICH). Two binary trees
        at once reduce and broadcast in twice the levels at full bandwidth (Sanders, Speck, Träff 2009, Two-tree
        algorithms for full bandwidth broadcast, reduction and scan); an all-reduce takes the faster. An all-to-all
        sends each of the others its share.
        """
        if self.ranks == 1:
            return 0.0
        shares = (self.ranks - 1) / self.ranks
        round_trip = self.hop_s + shares * count / self.bytes_per_s
        if kind == "all_reduce":
            return min(2 * round_trip, 2 * self.levels_s + 2 * count / self.bytes_per_s)
        if kind == "all_to_all":
            near = (shares - self.far) * count / self.bytes_per_s
            return self.hop_s + max(near, self.far * count / self.far_bytes_per_s)
        return round_trip


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """`ranks` on machines of `devices` each, on one link inside a machine and one `between` machines.

    Without either nothing takes time.
    """

    ranks: int
    devices: int = 1
    inside: Link | None = None
    between: Link | None = None

    @property
    def free(self) -> bool:
        return self.inside is None and self.between is None

    def link(self, source: int, target: int, *, alike: int) -> Link:
        """The link from a rank to another, as one of `alike` neighbours that send the like at the same time.

        Raises
        ------
        ParameterError
            If there is none.
        """
        near = self._near(source, target)
        link = self.inside if near else self.between
        if link is None:
            raise self._missing(f"ranks {source} and {target} of a pipeline", near=near)
        return replace(link, bytes_per_s=link.bytes_per_s / min(alike, self.devices)) if link.shared else link

    def channel(self, what: str, *, count: int, stride: int) -> Channel:
        """What `count` ranks, each `stride` after the one before, move the collectives of `what` on.

        Raises
        ------
        ParameterError
            If there is no link between them.
        """
        return self.channel_of(what, count=count, near=self.near(count, stride))

    def near(self, count: int, stride: int) -> int:
        """How many of the ranks of such a group are on each machine, at least, and divide the group.

        Where `stride` does not divide the devices of a machine, groups lie across machines in several ways: each rank
        is then taken to be by itself.
        """
        if self.ranks <= self.devices:
            return count
        return 1 if self.devices % stride else math.gcd(count, self.devices // stride)

    def channel_of(self, what: str, *, count: int, near: int) -> Channel:
        """What `count` ranks, `near` of them on each machine, move collectives on.

        All ranks of a machine are taken to do so at once. A group uses the ports of all its ranks there, as NCCL's
        rings do.
        """
        if count == 1 or self.free:
            return Channel(1, math.inf, 0.0, 0.0, 0.0, math.inf)
        machines = count // near
        for link, used, inside in ((self.inside, near > 1, True), (self.between, machines > 1, False)):
            if used and link is None:
                raise self._missing(f"the {count} ranks of `{what}`", near=inside)
        held = min(self.devices, self.ranks)

        def rate(link: Link | None, ports: int) -> float:
            return math.inf if link is None else link.bytes_per_s * ports / (held if link.shared else 1)

        within = rate(self.inside, 1) if near > 1 else math.inf
        across = rate(self.between, near) if machines > 1 else math.inf
        near_s = self.inside.latency_s if self.inside is not None else 0.0
        far_s = self.between.latency_s if self.between is not None and machines > 1 else 0.0
        return Channel(
            ranks=count,
            bytes_per_s=min(within, across),
            hop_s=(machines - 1) * far_s + (count - machines) * near_s,
            levels_s=math.ceil(math.log2(machines)) * far_s + math.ceil(math.log2(near)) * near_s,
            far=(count - near) / count,
            far_bytes_per_s=across / near,
        )

    def _near(self, source: int, target: int) -> bool:
        return source // self.devices == target // self.devices

    def _missing(self, who: str, *, near: bool) -> ParameterError:
        if near:
            return ParameterError(f"{who} are on one machine, and no link inside it is given", parameter=("machine",))
        message = f"{who} are on several machines of {self.devices}, and no link between machines is given"
        return ParameterError(message, parameter=("link",))


def waits(collectives: Iterable[Collective], channels: Mapping[str, Channel], part: str) -> tuple[float, float]:
    """The seconds that a node waits for its collectives in a part, and those during which it computes."""
    exposed, hidden = 0.0, 0.0
    for c in collectives:
        if c.part == part:
            seconds = channels[c.among].seconds(c.kind, c.bytes)
            exposed, hidden = (exposed, hidden + seconds) if c.overlapped else (exposed + seconds, hidden)
    return exposed, hidden
