"""Progress of a run and within a case: the stages, and the share of a case's time that each usually takes."""

from collections.abc import Callable

from ..method.segment import Progress

SHARES = {
    "read": 0.05, "locate": 0.1, "roi": 0.03, "kidney": 0.37, "components": 0.02, "tumor": 0.33,
    "restore": 0.04, "measure": 0.03, "write": 0.03,
}  # fmt: skip
"""Of a case's time, as measured on CPUs; in the order of the stages. Exact enough for a progress bar."""


def part_done(stage: str, share: float) -> float:
    """The part of a case that is done, 0 to 1; 0 in a stage that is not known."""
    if stage not in SHARES:
        return 0.0
    names = list(SHARES)
    before = sum(SHARES[name] for name in names[: names.index(stage)])
    return before + min(max(share, 0.0), 1.0) * SHARES[stage]


def both(first: Progress, second: Progress) -> Progress:
    """A progress function that calls two others."""

    def progress(stage: str, share: float) -> None:
        first(stage, share)
        second(stage, share)

    return progress


class CaseCounter:
    """How many cases of a run are done, counting the part of the one that is computed; never goes back.

    Attributes:
        done: cases, with a fraction.
    """

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        """`tell` is called with the case and its stage as text, and with `done`."""
        self.done = 0.0
        self._tell = tell

    def begin(self, name: str, n_before: int) -> Progress:
        """The progress function of one case.

        Args:
            name: the case's.
            n_before: cases before it, computed or skipped.
        """

        def progress(stage: str, share: float) -> None:
            self.done = max(self.done, n_before + part_done(stage, share))
            self._tell(f"{name}: {stage}", self.done)

        return progress
