"""Graceful shutdown: on SIGTERM or SIGINT, finish the write in progress, then exit."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_next_write, _write = threading.Lock(), threading.Lock()

log = logging.getLogger("inference")


@contextmanager
def no_exit() -> Iterator[None]:
    """Within, a case or the report is written: the process does not exit before that is done.

    After a signal to stop, the next one to come waits here for the end. Not to be nested.
    """
    with _next_write:  # a lock alone could go to the next writer again and again, and never to the exit
        _write.acquire()
    try:
        yield
    finally:
        _write.release()


@contextmanager
def stoppable() -> Iterator[None]:
    """Within: exit at the first signal as soon as nothing is being written, at the second one at once.

    A thread waits for the signals and ends the process. Raising an exception in the main thread instead would
    not be safe: it could come between a library's acquiring and releasing a lock, and the writer would then
    wait for that lock forever.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)  # set_wakeup_fd requires it
    before = {number: signal.signal(number, lambda number, frame: None) for number in SIGNALS}
    descriptor = signal.set_wakeup_fd(write_fd)
    threading.Thread(target=_watch, args=(read_fd,), name="stop", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write_fd)  # ends the thread


def _watch(read_fd: int) -> None:
    with open(read_fd, "rb", buffering=0) as numbers:
        # every signal with a handler in Python is told here: that a child has ended, too
        stops = (number[0] for number in iter(lambda: numbers.read(1), b"") if number[0] in SIGNALS)
        if first := next(stops, 0):
            threading.Thread(target=_exit_after_writing, args=(first,), daemon=True).start()
        if first and (second := next(stops, 0)):
            os._exit(128 + second)


def _exit_after_writing(number: int) -> None:
    with _next_write, _write:
        log.warning("stopped by a signal: written files are whole. Continue with --skip-existing")
        os._exit(128 + number)
