"""The store of results: what was put is there, for other processes and after any of them is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.base import store
from sim.base.store import Store


@settings(max_examples=20)
@given(st.lists(st.tuples(st.binary(max_size=4), st.text(st.characters(exclude_categories=["Cs"]))), max_size=20))
def test_the_last_text_of_a_key_is_there(entries: list[tuple[bytes, str]]) -> None:
    kept = Store(None)
    kept.put(entries)
    assert kept.get([key for key, _ in entries]) == dict(entries)
    assert kept.known([*dict(entries), b"other"]) == {*dict(entries)} - {b"other"} | ({b"other"} & {*dict(entries)})
    kept.close()


def test_more_keys_than_sqlite_takes_at_once() -> None:
    kept = Store(None)
    entries = {str(i).encode(): str(i) for i in range(2_000)}
    kept.put(entries.items())
    assert kept.get([*entries]) == entries
    kept.close()


def test_a_store_that_is_shared_outlives_who_opened_it() -> None:
    with store.opened(shared=True) as first:
        first.put([(b"a", "1")])
    with store.opened(shared=True) as second:
        assert second.get([b"a"]) == {b"a": "1"}
    with store.opened(shared=False) as own:
        assert own.get([b"a"]) == {}
        assert own.path is None


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    path.write_bytes(b"this is no database, and long enough to be one" * 100)
    kept = Store(path)
    kept.put([(b"a", "1")])
    assert kept.get([b"a"]) == {b"a": "1"}
    kept.close()


def test_where_nothing_can_be_kept_a_run_has_a_store_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIM_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with store.opened(shared=True) as own:
        assert own.path is None
        own.put([(b"a", "1")])
        assert own.get([b"a"]) == {b"a": "1"}


def test_a_large_file_forgets_its_older_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.sqlite"
    first = Store(path)
    first.put([(str(i).encode(), "x" * 1000) for i in range(50)])
    first.put([(str(i).encode(), "x" * 1000) for i in range(50, 100)])
    first.close()
    monkeypatch.setattr(store, "LARGEST", 50_000)
    size = path.stat().st_size
    second = Store(path)
    assert second.known([str(i).encode() for i in range(100)]) == {str(i).encode() for i in range(50, 100)}
    assert path.stat().st_size < 0.7 * size
    second.close()


WRITER = """
import sys
from pathlib import Path
from sim.base.store import Store
kept = Store(Path(sys.argv[1]))
for i in range(10**9):
    kept.put([(f"{i}-{k}".encode(), "x" * 500) for k in range(20)])
    print(i, flush=True)
"""


@pytest.mark.slow
def test_kill_9_leaves_whole_transactions(tmp_path: Path) -> None:
    """All that was reported is there, and of each transaction all entries or none."""
    path = tmp_path / "results.sqlite"
    for _ in range(3):
        path.unlink(missing_ok=True)
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.15)
            writer.send_signal(signal.SIGKILL)
            told = 1 + sum(1 for line in writer.stdout if line.endswith("\n"))
        kept = Store(path)
        for i in range(told + 3):
            count = len(kept.known([f"{i}-{k}".encode() for k in range(20)]))
            assert count == 20 if i < told else count in (0, 20)
        kept.close()
        assert told > 1
