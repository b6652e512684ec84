"""Fixtures that several test files use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests import corpus
from tests.helpers import write_weights

# the same examples every time: a failure on one machine is a failure on all
settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("reproducible")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny arrays are slower on many threads than on one."""
    torch.set_num_threads(1)


@pytest.fixture
def _untouched_process() -> Iterator[None]:
    """Undo what running the command inside the test process changes."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kidney and tumor weights of networks that threshold the CT (see `helpers.threshold_vnet`)."""
    return write_weights(tmp_path_factory.mktemp("weights"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The corpus of bad and odd inputs as one table."""
    if corpus.RESULTS:
        terminalreporter.section("bad and odd inputs: expected and got")
        terminalreporter.write_line(corpus.table(corpus.RESULTS))
