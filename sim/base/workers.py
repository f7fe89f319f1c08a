"""Work spread over this process, processes of this machine or a Dask cluster, by one interface: `concurrent.futures`.

Whatever ends a worker (the system for want of memory, a person, a crash) costs the work that it had in hand.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from sim.base.errors import ParameterError, SimError

About = TypeVar("About")
Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[About, Sequence[Item]], list[Result]]
"""A function of a module, of what all items have in common and some items: a result for each."""

WORTH_S = 4.0
"""Seconds that must be left for processes to be started: they take one or two to be ready."""
BATCH_S = 0.4
"""Seconds that a worker is given work for at a time; what is lost with it."""
LARGEST_BATCH = 512
MOST_TRIES = 2
"""Workers that an item may cost while it is alone in hand."""
_CONNECT_S = 10


class WorkerLost(SimError):
    """An item whose worker ends before it has a result, each time; `item` is which."""

    def __init__(self, item: Any) -> None:
        super().__init__(f"its process was ended {MOST_TRIES} times before it was done; it may need more memory")
        self.item = item


class ClusterLost(SimError):
    """A Dask scheduler that does not answer, or no longer."""


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Workers:
    """Where work is done: `jobs` processes, or the Dask cluster of a `scheduler`; one job is this process.

    Unless `at_once`, processes are started when it shows that they pay.
    """

    jobs: int = 1
    scheduler: str | None = None
    at_once: bool = False

    def results(
        self, work: Work[About, Item, Result], about: About, items: Iterable[Item], *, count: int
    ) -> Iterator[tuple[Item, Result]]:
        """Yield each of `count` items with its result, as they are done.

        Raises
        ------
        WorkerLost
            If an item ends its worker whenever it is alone in hand.
        ClusterLost
            If there is no scheduler, or it goes away.
        """
        rest = iter(items)
        seconds, done = BATCH_S, 0
        if self.scheduler is None and not (self.at_once and self.jobs > 1):
            takes: deque[float] = deque(maxlen=3)  # the first items load or compile kernels
            for item in rest:
                begin = time.perf_counter()
                [result] = work(about, [item])
                takes.append(time.perf_counter() - begin)
                done += 1
                yield item, result
                seconds = min(takes)
                known = len(takes) == takes.maxlen or takes[-1] > WORTH_S
                if self.jobs > 1 and known and count - done > 1 and seconds * (count - done) > WORTH_S:
                    break
            else:
                return
        yield from _Spread(self, work, about, rest, count - done, seconds).results()

    def executor(self) -> AbstractContextManager[tuple[Executor, int]]:
        """The executor, and how many items it works on at a time."""
        return _processes(self.jobs) if self.scheduler is None else _cluster(self.scheduler)


class _Spread(Generic[About, Item, Result]):
    """Items on their way through an executor."""

    def __init__(
        self,
        workers: Workers,
        work: Work[About, Item, Result],
        about: About,
        items: Iterator[Item],
        count: int,
        seconds: float,
    ) -> None:
        self.workers, self.work, self.about = workers, work, about
        self.items, self.left = items, count
        self.seconds = seconds
        self.in_hand: dict[Future[tuple[float, list[Result]]], list[Item]] = {}
        self.suspects: deque[Item] = deque()
        self.lost: dict[Item, int] = {}

    def results(self) -> Iterator[tuple[Item, Result]]:
        """Yield what is done; an executor that breaks is replaced, and what it had in hand done one by one."""
        while True:
            broken = False
            with self.workers.executor() as (executor, width):
                while not broken:
                    if not self._fill(executor, width):
                        return
                    done, _ = wait(self.in_hand, return_when=FIRST_COMPLETED)
                    broken = any(_is_lost(_error(f)) for f in done)
                    if broken:
                        done, _ = wait(self.in_hand, return_when=ALL_COMPLETED)
                    for future in done:
                        yield from self._done(future)

    def _fill(self, executor: Executor, width: int) -> bool:
        """Give out work; a suspect alone, once nothing else is in hand. Return whether any is in hand."""
        if self.suspects:
            if not self.in_hand:
                self._submit(executor, [self.suspects.popleft()])
            return True
        while len(self.in_hand) < 2 * width and self.left > len(self.suspects):
            size = int(BATCH_S / max(self.seconds, 1e-6))
            size = max(1, min(size, LARGEST_BATCH, -(-self.left // (4 * width))))
            batch = list(islice(self.items, size))
            if not batch:
                break
            self._submit(executor, batch)
        return bool(self.in_hand)

    def _submit(self, executor: Executor, batch: list[Item]) -> None:
        try:
            self.in_hand[executor.submit(_timed, self.work, self.about, batch)] = batch
        except BrokenExecutor as error:
            future: Future[tuple[float, list[Result]]] = Future()
            future.set_exception(error)
            self.in_hand[future] = batch

    def _done(self, future: Future[tuple[float, list[Result]]]) -> Iterator[tuple[Item, Result]]:
        """Yield the items of a future with their results, or suspect them."""
        batch = self.in_hand.pop(future)
        error = _error(future)
        if _is_lost(error):
            for item in batch:
                self.lost[item] = self.lost.get(item, -1) + 1  # the first time it was not alone
                if self.lost[item] == MOST_TRIES:
                    raise WorkerLost(item)
            self.suspects.extend(batch)
            return
        if isinstance(error, CancelledError):
            raise ClusterLost("the Dask scheduler has gone; what is finished is kept") from None
        seconds, results = future.result()
        self.seconds = (self.seconds + seconds / len(batch)) / 2
        self.left -= len(batch)
        yield from zip(batch, results, strict=True)


def _error(future: Future[Any]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as cancelled:
        return cancelled


def _is_lost(error: BaseException | None) -> bool:
    """Whether an executor says that a worker has ended with what it had in hand; Dask's own word is `KilledWorker`."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"


_one_at_a_time = threading.Lock()
"""Held while a worker works: a Dask worker may have several threads."""


def _timed(work: Work[About, Item, Result], about: About, batch: Sequence[Item]) -> tuple[float, list[Result]]:
    with _one_at_a_time:
        begin = time.perf_counter()
        results = work(about, batch)
        return time.perf_counter() - begin, results


@contextmanager
def _processes(jobs: int) -> Iterator[tuple[Executor, int]]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    _silence_tracker()
    # new interpreters, not forks: those would inherit the locks of threads that they do not have
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_accompany)
    try:
        yield executor, jobs
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _silence_tracker() -> None:
    """Start the process that removes semaphores whose owner was killed, without its warning that it does so."""
    from multiprocessing import resource_tracker

    before = list(sys.warnoptions)
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")  # is handed to it on its command line
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = before


def _accompany() -> None:
    """Make this process a worker: deaf to the Ctrl-C of its terminal, gone with the process that started it."""
    import multiprocessing
    from multiprocessing.connection import wait as wait_for

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are started by a process"

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _cluster(address: str) -> Iterator[tuple[Executor, int]]:
    try:
        dask: Any = importlib.import_module("distributed")
    except ImportError:
        raise ParameterError(
            "--scheduler: needs Dask: pip install 'ad-tradeoff-sim[cluster]'", parameter=("scheduler",)
        ) from None
    try:
        client = dask.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterLost(f"--scheduler: no Dask scheduler answers at {address}: {error}") from None
    with contextlib.closing(client):
        width = sum(client.ncores().values())
        if not width:
            raise ClusterLost(f"--scheduler: the Dask scheduler at {address} has no workers")
        # the same call twice is done twice
        yield client.get_executor(pure=False), width
