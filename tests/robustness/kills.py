"""Kills at random moments, and then the rest: `python -m tests.robustness.kills --kills 50`.

A batch of ten tiny CTs is started, killed (SIGKILL, SIGTERM or SIGINT) and started again with
`--skip-existing`, over and over. After each kill every file under a final name must be the one that an
undisturbed run writes; at the end all ten must be there, and nothing else.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from inference.cli import main as command
from inference.formats.staging import PREFIX
from tests.helpers import ABDOMEN_SPACING_MM, abdomen, canonical_affine, save_nifti, save_sitk, write_weights

N_CASES = 10
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST_S = 60.0


def make_batch(folder: Path) -> Path:
    """Ten CTs, no two alike, in three formats."""
    for i in range(N_CASES):
        hu = abdomen(centre_z_mm=50.0 + 2 * i)
        if i % 3:
            save_nifti(
                folder / f"ct_{i}.nii{'.gz' if i % 3 == 1 else ''}", hu, canonical_affine(ABDOMEN_SPACING_MM)
            )
        else:
            save_sitk(folder / f"ct_{i}.mha", hu, ABDOMEN_SPACING_MM)
    return folder


def start(arguments: list[str], log: Path) -> int:
    """The command in a process of its own (a fork: its libraries are loaded already); its id."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS[1:])  # until the child is ready for them
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS[1:])
    else:
        code = 70
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
            for number in (signal.SIGTERM, signal.SIGINT):  # as inference/__main__.py does
                signal.signal(number, lambda number, frame: os._exit(128 + number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS[1:])
            command(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def finish(process: int) -> int:
    """Wait for a process; its exit code, or minus the signal that ended it."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError(f"did not end within {LONGEST_S:.0f} s")


def contents(folder: Path) -> dict[str, bytes]:
    """All files under a folder but for those in hand."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(PREFIX) for part in path.parts)
    }


def run(folder: Path, *, kills: int, seed: int = 0) -> Counter[str]:
    """Kill `kills` runs; how each ended, as counts. `AssertionError` where anything is amiss."""
    rng = np.random.default_rng(seed)
    inputs, log = make_batch(folder / "in"), folder / "log"
    weights = write_weights(folder / "weights")

    def arguments(output: Path) -> list[str]:
        words = [
            "--input",
            str(inputs),
            "--output",
            str(output),
            "--weights",
            str(weights),
            "--skip-existing",
        ]
        words += ["--previews", str(output / "previews"), "--report", str(folder / "report.json")]
        return [*words, "--device", "cpu", "--threads", "1"]

    began = time.monotonic()
    assert finish(start(arguments(folder / "whole"), log)) == 0, log.read_text()
    seconds = time.monotonic() - began
    whole = contents(folder / "whole")
    assert len(whole) == 2 * N_CASES

    counts: Counter[str] = Counter()
    attempt = 0
    while sum(counts.values()) < kills:
        output = folder / f"killed_{attempt}"
        number = SIGNALS[rng.integers(len(SIGNALS))]
        process = start(arguments(output), log)
        time.sleep(rng.uniform(0, 0.8 * seconds))
        os.kill(process, number)
        code = finish(process)
        text = log.read_text()
        assert "Traceback" not in text, text
        found = contents(output) if output.exists() else {}
        assert found.items() <= whole.items(), f"{number.name} left other files: {sorted(found)}"
        if code != 0:
            assert code in (-number, 128 + number), f"{number.name} ended with {code}: {text}"
            counts[f"{number.name} after {sum('previews' not in name for name in found)} of {N_CASES}"] += 1
        else:
            seconds *= 0.8  # other processes had slowed the undisturbed run down
        if found == whole or sum(counts.values()) == kills:
            assert finish(start(arguments(output), log)) == 0, log.read_text()
            assert contents(output) == whole
            left = [path for path in folder.rglob("*") if path.name.startswith(PREFIX)]
            assert not left, left
            attempt += 1
    return counts


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.robustness.kills", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        counts = run(Path(folder), kills=options.kills, seed=options.seed)
    for name, count in sorted(counts.items()):
        print(f"{count:4d}  {name}")
    print(f"{sum(counts.values())} kills; afterwards all {N_CASES} outputs equal those of an undisturbed run")


if __name__ == "__main__":
    main()
