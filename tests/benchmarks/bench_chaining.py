"""The best product order of a long chain of Jacobians (-s prints the time)."""

from __future__ import annotations

import time

import numpy as np

from sim.models.families.chain import chain
from sim.strategies.jacobians.chaining import Chain
from sim.strategies.jacobians.matrix_chain import best_matrix_free, best_product


def test_the_order_of_300_products_is_found_within_a_tenth_of_a_second() -> None:
    sizes = np.random.default_rng(0).integers(1, 1000, 301)
    elements = Chain(chain(sizes=sizes.tolist())).elements()
    for plan in (best_product, best_matrix_free):
        plan(elements)  # compiles the kernel, or loads it
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            plan(elements)
            times.append(time.perf_counter() - begin)
        print(f"\n{plan.__name__}: 300 elements in {min(times):.3f} s")
        assert min(times) <= 0.1
