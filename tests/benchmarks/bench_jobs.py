"""Prints what papers and benchmarks publish of jobs on many devices, and what comes out here beside it.

`python tests/benchmarks/bench_jobs.py`, in the environment of the tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from published_jobs import rows


def main() -> None:
    """Print one line a figure."""
    print(f"{'':40}{'published':>12}{'here':>10}{'apart':>9}")
    for row in rows():
        ours = row.ours()
        note = "calibrated on it" if row.calibrated else ""
        print(f"{row.what:40}{row.published:>12.5g}{ours:>10.5g}{ours / row.published - 1:>9.1%}  {row.unit}  {note}")


if __name__ == "__main__":
    main()
