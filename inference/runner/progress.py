"""How far a case is: its stages, and the part of its time that each usually takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..method.segment import Timer

Progress = Callable[[str, float], None]
"""(stage, part of the case that is done, 0 to 1), told whenever a stage begins."""
SHARES = {
    "read": 0.05, "locate": 0.1, "roi": 0.03, "kidney": 0.37, "components": 0.02, "tumor": 0.33,
    "restore": 0.04, "measure": 0.03, "write": 0.03,
}  # fmt: skip
"""Of a case's time, measured on CPUs; in the order of the stages. A bar needs no better."""


def done_before(stage: str) -> float:
    """The part of a case that is done when a stage begins; 0 for a stage that is not known."""
    names = list(SHARES)
    return sum(SHARES[name] for name in names[: names.index(stage)]) if stage in SHARES else 0.0


def telling(timed: Timer, progress: Progress) -> Timer:
    """A timer that also tells when a stage begins."""

    @contextmanager
    def both(stage: str) -> Iterator[None]:
        if stage in SHARES:
            progress(stage, done_before(stage))
        with timed(stage):
            yield

    return both


class CaseCounter:
    """How many cases of a run are done, counting the parts of the one that is computed; never goes back.

    Attributes:
        done: cases, with a fraction.
    """

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        """`tell` takes what is being done (the case and its stage), and `done`."""
        self.done = 0.0
        self._tell = tell

    def begin(self, name: str, n_before: int) -> Progress:
        """What a case's own progress goes to.

        Args:
            name: the case's.
            n_before: cases before it, computed or passed over.
        """

        def progress(stage: str, part: float) -> None:
            self.done = max(self.done, n_before + min(max(part, 0.0), 1.0))
            self._tell(f"{name}: {stage}", self.done)

        return progress
