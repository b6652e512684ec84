"""Told to stop (SIGTERM, SIGINT): what is in hand is finished, nothing else is."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)
IN_HAND = threading.RLock()
"""Held while a case or the report is written: the process does not end within."""

log = logging.getLogger("inference")


@contextmanager
def stoppable() -> Iterator[None]:
    """Told to stop: end as soon as nothing is in hand. Told twice: at once.

    A thread waits for the signals and ends the process. An exception raised wherever the main thread
    happens to be would not do: raised between the taking and the giving back of a library's lock, it
    leaves the writer waiting for ever.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)  # set_wakeup_fd asks for it
    before = {number: signal.signal(number, lambda number, frame: None) for number in SIGNALS}
    descriptor = signal.set_wakeup_fd(tell)
    threading.Thread(target=_watch, args=(told,), name="stop", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(tell)  # ends the thread


def _watch(told: int) -> None:
    with open(told, "rb", buffering=0) as numbers:
        if first := numbers.read(1):
            threading.Thread(target=_finish, args=(first[0],), daemon=True).start()
        if first and (second := numbers.read(1)):
            os._exit(128 + second[0])


def _finish(number: int) -> None:
    with IN_HAND:
        log.warning("stopped: what is written is whole; go on with --skip-existing")
        os._exit(128 + number)
