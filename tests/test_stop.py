"""A signal to stop lets the write in progress finish, wherever the main thread happens to be."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import threading, time
from inference.runner.stop import no_exit, stoppable

library = threading.Lock()  # as the import system's, or a logger's

def write():
    for _ in range({times}):
        with no_exit():
            print("writing", flush=True)
            with library:
                print("written", flush=True)
                time.sleep({after})

with stoppable():
    library.acquire()
    writer = threading.Thread(target=write)
    if {writes}:
        writer.start()
    else:
        print("writing", flush=True)
    time.sleep({main})
    library.release()
    time.sleep(600)
"""


def started(*, writes: bool, main: float, after: float = 0.0, times: int = 1) -> subprocess.Popen[str]:
    """The program, which is writing or says that it is."""
    command = [sys.executable, "-c", PROGRAM.format(writes=writes, main=main, after=after, times=times)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_lock_that_the_main_thread_holds_is_released(number: signal.Signals) -> None:
    """An exception raised there would leave the writer waiting for it."""
    process = started(writes=True, main=1.0)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert stdout == "written\n"
    assert stderr == "stopped by a signal: written files are whole. Continue with --skip-existing\n"


def test_no_further_write_begins() -> None:
    """Not even one that waited for the lock before the exit did."""
    process = started(writes=True, main=0.5, after=0.5, times=5)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=30)
    assert stdout == "written\n"


def test_without_a_write_no_long_call_delays_the_exit() -> None:
    process = started(writes=False, main=600)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_second_signal_exits_at_once() -> None:
    process = started(writes=True, main=0.0, after=600)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT


def test_afterwards_signals_are_as_before() -> None:
    program = (
        "import os, signal; from inference.runner.stop import stoppable\n"
        "with stoppable(): pass\n"
        "print(signal.set_wakeup_fd(-1)); os.kill(os.getpid(), signal.SIGTERM)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "-1\n")


def test_the_end_of_a_child_is_no_reason_to_stop() -> None:
    """A library, PyTorch's loaders say, may have a handler for it."""
    code = (
        "import signal, subprocess, sys, time; from inference.runner.stop import stoppable\n"
        "signal.signal(signal.SIGCHLD, lambda number, frame: None)\n"
        "with stoppable():\n"
        "    subprocess.run([sys.executable, '-c', ''], check=True)\n"
        "    time.sleep(0.5)\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
