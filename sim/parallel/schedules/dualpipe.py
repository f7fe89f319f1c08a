"""DualPipe: micro-batches from both ends of the ranks at once, each rank with two stages."""

from __future__ import annotations

from sim.base.errors import ParameterError
from sim.parallel.pipeline import Part, Pass, PipelineSchedule, scheduled
from sim.parallel.schedules import Shape, pipeline_schedules


def check(shape: Shape) -> None:
    """Raise ParameterError unless ranks and micro-batches make two halves, with two micro-batches a rank."""
    p, m = shape.ranks, shape.micro_batches
    if p % 2:
        raise ParameterError(f"got {p} stages, expected an even number")
    if m % 2 or m < 2 * p:
        raise ParameterError(f"got {m} micro-batches, expected an even number of at least {2 * p} for {p} stages")


@pipeline_schedules.register("dualpipe", requires=check)
def dualpipe(shape: Shape) -> PipelineSchedule:
    """Half of the micro-batches from rank 0 on, half from rank p - 1 back, so each rank has stages i and p - 1 - i.

    A forward pass and a VJP overlap, here in F + B + W seconds. The bubble is then
    (p/2 - 1)(F + B + W + (B + W) - 3W) seconds if F = B; parameters are held twice, and p + 1 micro-batches
    at most (DeepSeek-AI 2024, DeepSeek-V3 Technical Report, arXiv:2412.19437, section 3.2.1 and table 2).
    Even micro-batches run from rank 0 on.

    Raises
    ------
    ParameterError
        For an odd number of ranks or micro-batches, or fewer than two micro-batches a rank.
    """
    check(shape)
    p, m = shape.ranks, shape.micro_batches
    overlapped: set[Pass] = set()
    orders = [_order(rank, p, m, overlapped) for rank in range(p)]
    return scheduled(orders, stages=p, micro_batches=m, overlapped=overlapped)


def _order(rank: int, p: int, m: int, overlapped: set[Pass]) -> list[Pass]:
    """The passes of a rank, from whose nearer end direction 0 comes; those that overlap the next are added."""
    near = min(rank, p - 1 - rank)
    half = p // 2
    from_first = rank < half
    stages = (near, p - 1 - near)
    order: list[Pass] = []
    weights: list[Pass] = []
    counts = {Part.FORWARD: [0, 0], Part.VJP: [0, 0]}

    def micro_batch(part: Part, direction: int) -> int:
        j = counts[part][direction]
        counts[part][direction] += 1
        return 2 * j + (direction if from_first else 1 - direction)

    def forward(direction: int) -> None:
        order.append(Pass(Part.FORWARD, stages[direction], micro_batch(Part.FORWARD, direction)))

    def vjp(direction: int, *, split: bool = False) -> None:
        j = micro_batch(Part.VJP, direction)
        order.append(Pass(Part.INPUT_VJP if split else Part.VJP, stages[direction], j))
        if split:
            weights.append(Pass(Part.WEIGHT_VJP, stages[direction], j))

    def weight() -> None:
        order.append(weights.pop(0))

    def pair(of_forward: int, of_vjp: int, *, apart: bool = False) -> None:
        forward(of_forward)
        if not apart:
            overlapped.add(order[-1])
        vjp(of_vjp)

    for _ in range(2 * (half - near - 1)):
        forward(0)
    for _ in range(near + 1):
        forward(0)
        forward(1)
    for _ in range(half - near - 1):
        vjp(1, split=True)
        weight()
        forward(1)
    for k in range(m // 2 - p + near + 1):
        pair(0, 1, apart=k == 0 and near == half - 1)  # where both directions meet, overlap would widen the bubble
        pair(1, 0)
    for _ in range(half - near - 1):
        vjp(1)
        pair(1, 0)
    # the second half of these VJPs puts its weights' parts off to the end
    for k in range(2 * (near + 1)):
        vjp(1 - k % 2, split=k > near)
    for _ in range(half - near - 1):
        weight()
        vjp(0, split=True)
    while weights:
        weight()
    return order
