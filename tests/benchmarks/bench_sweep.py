"""A sweep of MLPs on one core and on two, and after a stop: points a second, ratios, memory.

Run `python tests/benchmarks/bench_sweep.py [CELLS [ROUNDS]]`; a cell has 10 points, 10,000 cells are the whole sweep.
Runs with one job and with two alternate, each without what is known. Beside the ratio by the clock, which other work
on the machine distorts, it prints the ratio of processor time: what one job takes, over what two take on cores of
their own: all that happens before and after the workers, and half of the rest.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SCENARIO = """\
version: 1
name: mlps
graph: {kind: mlp, widths: [784, {repeat: 512, times: 8}, 10], activation: relu, batch: 64, loss: cross_entropy}
device: h100-sxm
budget: 100 MB
strategies:
  - reverse_full
  - forward_recompute: {chunk: 64}
  - reverse_offload: {prefetch: 2}
  - reverse_checkpointed: {schedule: sqrt}
  - reverse_checkpointed: {schedule: uniform, segments: [2, 3]}
  - reverse_checkpointed: {schedule: periodic, every: 3}
  - reverse_checkpointed: {schedule: binomial, slots: [1, 2, 4]}
sweep:
  graph.widths[1].times: {from: 2, to: 50, step: 2}
  graph.widths[1].repeat: {from: 64, to: 1280, step: 64}
  graph.batch: {from: 8, to: 160, step: 8}
"""
ONE_RUN = """\
import json, os, resource, sys, time
from sim.base.workers import Workers
from sim.experiment import cells, run as experiment, sweep
from sim.scenario.scenario import load

if __name__ == "__main__":
    def cpu(): return sum(os.times()[:2])
    marks = [cpu()]
    measure = cells.Outcomes.measure
    def timed(self, *arguments, **keywords):
        measured = measure(self, *arguments, **keywords)
        marks.append(cpu())
        return measured
    cells.Outcomes.measure = timed
    missing = cells.Outcomes._missing
    def looked(self, *arguments):
        found = missing(self, *arguments)
        marks.append(cpu())
        return found
    cells.Outcomes._missing = looked
    start = time.perf_counter()
    path, jobs, fresh, folder = sys.argv[1:]
    scenario = load(path)
    from pathlib import Path
    results = experiment.sweep(scenario, workers=Workers(int(jobs), at_once=jobs != "1"), fresh=fresh == "1")
    results.write(Path(folder))
    wall = time.perf_counter() - start
    marks.append(cpu())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall": wall, "marks": marks, "peak": peak, "points": len(results.points)}), flush=True)
"""


def run(path: Path, jobs: int, *, fresh: bool, out: Path) -> dict[str, float]:
    """Seconds and bytes of one run, in a process of its own."""
    import json

    program = path.with_name("one_run.py")
    program.write_text(ONE_RUN)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = subprocess.run(
        [sys.executable, str(program), str(path), str(jobs), str(int(fresh)), str(out)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    data = json.loads(told)
    start, looked, measured, end = data["marks"]
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    alone = (looked - start) + (end - measured)
    return {
        "wall": data["wall"], "peak": data["peak"], "points": data["points"], "cpu": total,
        "alone": alone, "shared": total - start - alone,
    }  # fmt: skip


def main(cells: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlps.yaml"
        depths = max(1, cells // 400)
        path.write_text(SCENARIO.replace("from: 2, to: 50, step: 2", f"from: 2, to: {2 * depths}, step: 2"))
        os.environ["SIM_CACHE_DIR"] = f"{folder}/cache"
        best: dict[int, dict[str, float]] = {}
        for _ in range(rounds):
            for jobs in (1, 2):
                found = run(path, jobs, fresh=True, out=Path(folder) / str(jobs))
                print(
                    f"{jobs} job{'s' if jobs > 1 else ' '}: {found['points']:,} points in {found['wall']:.1f} s, "
                    f"{found['cpu']:.1f} s of processor time, {found['alone']:.1f} s before and after the workers, "
                    f"{found['peak'] / 1e6:.0f} MB", flush=True,
                )  # fmt: skip
                best[jobs] = min(best.get(jobs, found), found, key=lambda run: run["wall"])
        same = all(
            (Path(folder) / "1" / name).read_bytes() == (Path(folder) / "2" / name).read_bytes()
            for name in ("results.json", "results.csv")
        )
        one, two = best[1], best[2]
        apart = two["alone"] + two["shared"] / 2
        print(f"results equal byte for byte: {same}")
        print(f"two jobs against one: {one['wall'] / two['wall']:.2f} by the clock,", end=" ")
        print(f"{(one['alone'] + one['shared']) / apart:.2f} by processor time on two cores of their own")
        again = run(path, 2, fresh=False, out=Path(folder) / "again")
        print(f"again, with everything known: {again['wall']:.1f} s, {again['cpu']:.1f} s of processor time")


if __name__ == "__main__":
    main(*(int(x) for x in [*sys.argv[1:], "400", "2"][:2]))
