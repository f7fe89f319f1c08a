"""The process of a command line: Ctrl-C and SIGTERM end it within a second, and its standard streams are open.

Python runs the handler of a signal in the main thread, between two of its instructions, and a compiled
kernel lies between two for minutes. A second thread therefore waits for the same signals: kernels run
without the interpreter's lock. Whichever is first writes what is finished, says so in one line and
ends the process. No `KeyboardInterrupt` is thrown: the code of others (imports, compilers, callbacks
from C) swallows it or is left half-way. A search is asked to end instead: the main thread goes on with
the best that it has, for a few seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Never

from sim.base import files, searches
from sim.commands.exit import Exit

_PATIENCE_S = 0.2
_MOST_PATIENCE_S = 10
"""How long a search may take to end and the main thread to write what it found."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"

_ending = threading.Lock()
NOTHING = "nothing was finished"
_finish: str | Callable[[], str] = NOTHING


def on_interruption(finish: str | Callable[[], str]) -> None:
    """Say what an interruption from here on leaves finished; as a function, write it and say what it is.

    It is called between any two instructions, or while a kernel runs, by another thread: it may neither
    import nor compile.
    """
    global _finish
    _finish = finish


def interrupted() -> str:
    """The line about an interruption, once what is finished is written."""
    try:
        said = _finish if isinstance(_finish, str) else _finish()
    except Exception as error:
        said = f"what was finished could not be written: {error}"
    return f"interrupted: {'the best of the search so far; ' if searches.ended() else ''}{said}"


def own() -> None:
    """Take over the signals and the standard streams of this process, which runs one command line."""
    _open_streams()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # what `nohup` and background jobs ask for
            signal.signal(number, lambda *_: _end())
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def leave(code: int) -> Never:
    """End the process at once: the interpreter would take seconds to tidy up after a framework, deaf to signals."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _open_streams() -> None:
    """Put what can be neither read nor written in the place of closed streams, lest a file take their numbers."""
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _watch(reader: int) -> None:
    """End the process where the main thread does not, and at once at the second signal."""
    signals = (number for number in iter(lambda: os.read(reader, 1)[0], None) if number in _SIGNALS)
    next(signals)
    for seconds, end in ((_PATIENCE_S, _end), (_MOST_PATIENCE_S, _end_now)):
        threading.Timer(seconds, end).start()
    next(signals)
    os._exit(Exit.INTERRUPTED)


def _end() -> None:
    """Ask a search to end and let the main thread go on, or end the process."""
    if not searches.end():
        _end_now()


def _end_now() -> Never:
    """Write what is finished, say so, and end the process; whichever thread comes second waits for that."""
    with _ending:
        line = interrupted().encode(errors="replace") + b"\n"
        files.discard_unfinished()
        with contextlib.suppress(OSError):
            os.write(2, _SHOW_CURSOR + line if os.isatty(2) else line)
        os._exit(Exit.INTERRUPTED)
