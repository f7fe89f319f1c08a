"""The compiled run of passes and sends: when each begins and ends, which is the longest path to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.base.compiled import compiled


@compiled
def run(
    ptr: Any, sources: Any, joined: Any, send_ptr: Any, links: Any, arrivals_of: Any, seconds: Any, send_seconds: Any,
    latency: Any, starts: Any, ends: Any, send_starts: Any, send_ends: Any,
) -> Any:  # fmt: skip
    """Write the start and end of each pass and send, and return how many passes each rank has done.

    The passes of rank r are ptr[r] … ptr[r + 1] - 1, those of a block `joined` to the next one. A pass reads
    the results of `sources` (-1: none), from `arrivals_of` sends if these are on another rank. The sends
    of pass i are send_ptr[i] … send_ptr[i + 1] - 1, on `links` that carry one at a time in this order. A
    rank that waits for what never comes stays where it is.
    """
    ranks, count = len(ptr) - 1, len(sources)
    place, free = ptr[:-1].copy(), np.zeros(ranks)
    link_free = np.zeros(ranks if len(links) == 0 else links.max() + 1)
    done = np.zeros(count, np.bool_)
    waiter, waits_too = np.full(count, -1, np.int32), np.full(ranks, -1, np.int32)
    stack = np.arange(ranks - 1, -1, -1)
    top = ranks
    while top:
        top -= 1
        rank = stack[top]
        begin = place[rank]
        while begin < ptr[rank + 1]:
            stop = begin + 1
            while joined[stop - 1]:
                stop += 1
            start, missing = free[rank], -1
            for i in range(begin, stop):
                for c in range(2):
                    source = sources[i, c]
                    if source >= 0 and not done[source]:
                        missing = source
                    elif source >= 0 and arrivals_of[i, c] >= 0:
                        send = arrivals_of[i, c]
                        start = max(start, send_ends[send] + latency[send])
            if missing >= 0:
                waits_too[rank] = waiter[missing]
                waiter[missing] = rank
                break
            for i in range(begin, stop):
                starts[i] = start
                start = start + seconds[i]
                ends[i] = start
            for i in range(begin, stop):
                done[i] = True
                for send in range(send_ptr[i], send_ptr[i + 1]):
                    send_starts[send] = max(link_free[links[send]], start)
                    send_ends[send] = send_starts[send] + send_seconds[send]
                    link_free[links[send]] = send_ends[send]
                other = waiter[i]
                while other >= 0:
                    stack[top] = other
                    top += 1
                    other = waits_too[other]
            free[rank] = start
            begin = stop
        place[rank] = begin
    return place - ptr[:-1]
