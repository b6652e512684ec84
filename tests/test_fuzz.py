"""The readers under damaged files: a share of the fuzz, and all that it once found."""

from pathlib import Path

import pytest

from tests.fuzz import check, run

SEEDS = sorted(path for path in (Path(__file__).parent / "seeds").glob("*/*") if path.suffix != ".raw")


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_failed(path: Path) -> None:
    """Crashes of ITK, loops without end, gigabytes: each is refused in one line now."""
    assert check(path) == "refused"


def test_a_share_of_the_fuzz() -> None:
    """`python -m tests.fuzz` runs 20,000; these are the first."""
    counts, failures = run(inputs=400)
    assert not failures
    assert sum(counts.values()) == 400
    for outcome in ("read", "refused"):  # mutations that leave nothing readable would test little
        assert sum(n for name, n in counts.items() if name.endswith(f": {outcome}")) > 40
