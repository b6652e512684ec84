"""A batch killed at random moments and started again ends as if nothing had happened."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_kills_at_random_moments_cost_nothing() -> None:
    """A process of its own, since forks want one without threads."""
    command = [sys.executable, "-m", "tests.robustness.kills", "--kills", "50"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "50 kills; afterwards all 10 outputs equal those of an undisturbed run" in done.stdout
    assert "Traceback" not in done.stderr
