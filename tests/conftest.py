"""Fixtures that several test files use."""

import os
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from evaluation.harness import engine
from tests.helpers import write_weights
from tests.robustness import corpus

ROOT = Path(__file__).resolve().parent.parent
TABLES: list[str] = []
"""The corpus's results, from the processes that ran it."""

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


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """Our image, built once for all tests that want it."""
    if not engine.is_available():
        pytest.skip("NO CONTAINER ENGINE: THE CONTAINER IS NOT TESTED")
    name = "nested-vnet-kits19-test"
    subprocess.run(["./run.sh", "build"], cwd=ROOT, env={**os.environ, "IMAGE": name}, check=True)
    yield name
    subprocess.run([engine.DOCKER, "image", "rm", name], capture_output=True, check=False)


WITH_ENGINE = {"image", "lean_image"}
"""Fixtures that build images: tests that use them run one after another, in one process."""
SLOWEST_FIRST = ("container", "test_training.py", "test_backends.py", "test_kills.py", "test_whole_body.py")
"""Groups that would keep one core busy at the end while the other has nothing left to do."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes (`-n`), a file's tests stay together, and so do all that need the engine.

    A test that shares nothing with its file can have a group of its own: `@pytest.mark.xdist_group("name")`.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    places = {}
    for item in items:
        with_engine = WITH_ENGINE.intersection(getattr(item, "fixturenames", ()))
        group = "container" if with_engine else item.path.name
        places[item] = SLOWEST_FIRST.index(group) if group in SLOWEST_FIRST else len(SLOWEST_FIRST)
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=places.__getitem__)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Logs may hold file names that are no UTF-8, which cannot be sent from process to process."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several hands its part of the corpus's table to the one that prints."""
    if hasattr(session.config, "workeroutput") and corpus.RESULTS:
        session.config.workeroutput["corpus"] = corpus.table(corpus.RESULTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what `pytest_sessionfinish` hands over."""
    if table := getattr(node, "workeroutput", {}).get("corpus"):
        TABLES.append(table)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The corpus of bad and odd inputs as one table."""
    tables = [*TABLES, *([corpus.table(corpus.RESULTS)] if corpus.RESULTS else [])]
    for table in tables:
        terminalreporter.section("bad and odd inputs: expected and got")
        terminalreporter.write_line(table)
