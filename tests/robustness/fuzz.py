"""Damaged files by the thousand: `python -m tests.robustness.fuzz --inputs 20000`.

Tiny valid files of every format are mutated (bits, bytes, numbers in headers, cuts, splices; compressed
bodies inside and outside) and read in worker processes under limits of time and memory. Each input must
end as a CT that can be written back, or as one line that names its file; never in another exception, a
crash, a hang or much memory. Input I of seed S is the same on every machine.

What fails is kept in --keep; what has once failed lies in seeds/ beside this file and is read by
tests/test_fuzz.py.
"""

import argparse
import gzip
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.random import Generator
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from inference.formats.ct import CaseError, read_ct, read_native_grid, write_label_map
from inference.networks.weights import WeightsError, load_weights
from tests.helpers import abdomen, canonical_affine, rotation, save_dicom_series, write_weights
from tests.robustness.odd_dicom import save_enhanced

SHAPE, SPACING_MM = (4, 5, 6), (3.0, 0.75, 0.5)
DETACHED = (".mhd", ".nhdr")
"""Headers whose voxels lie in a .raw beside them."""
MAX_SECONDS = 10
MAX_BYTES = 1 << 30
HARD_LIMIT_BYTES = 6 << 30
"""Above the other: a library that swallows a failed allocation is found out by what it asked for before."""
MAX_MUTATIONS = 4
"""On one input; more, and nearly all would fail at the first check."""
NUMBERS = [
    *(b"0", b"-1", b"1", b"2", b"7", b"255", b"32767", b"65536", b"2147483647", b"4294967296"),
    *(
        b"9223372036854775807",
        b"99999999999999999999",
        b"1e308",
        b"1e-308",
        b"nan",
        b"inf",
        b"-inf",
        b"",
        b"x",
    ),
]
WORDS = [
    np.array(value, dtype).tobytes()
    for dtype, values in (
        ("u1", (0, 1, 7, 127, 128, 255)),
        ("<i2", (-1, 0, 1, 32767, -32768)),
        ("<i4", (-1, 0, 2**31 - 1, -(2**31))),
        ("<i8", (-1, 2**63 - 1)),
        ("<f4", (np.nan, np.inf, -np.inf, 0, 1e38, 1e-38, -1)),
    )
    for value in values
]


# ----------------------------------------------------------------------------------------------- the inputs


def make_seeds(folder: Path) -> list[Path]:
    """One tiny valid input for each format and its variants: files, and one folder with a DICOM series."""
    hu = abdomen(SHAPE, SPACING_MM)
    affine = canonical_affine(SPACING_MM, (10.0, -20.0, 30.5))
    nib.save(nib.Nifti1Image(hu, affine), folder / "plain.nii")
    nib.save(nib.Nifti1Image(hu.astype(">f8"), affine, nib.Nifti1Header(endianness=">")), folder / "big.nii")
    nib.save(nib.Nifti2Image(hu.astype(np.float32), rotation(5, 3, 9) @ affine), folder / "two.nii.gz")
    extended = nib.Nifti1Image(hu.astype(np.uint16), affine)
    extended.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"an extension"))
    extended.set_qform(affine, 1)
    nib.save(extended, folder / "extended.nii.gz")
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(SPACING_MM[::-1])
    for name, compressed in (
        ("raw.mha", False),
        ("packed.mha", True),
        ("raw.nrrd", False),
        ("packed.nrrd", True),
    ):
        sitk.WriteImage(image, str(folder / name), useCompression=compressed)
    sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32), str(folder / "pair.mhd"))
    sitk.WriteImage(image, str(folder / "detached.nhdr"))
    text = (folder / "raw.nrrd").read_bytes().partition(b"\n\n")[0].replace(b": raw", b": ascii")
    numbers = b" ".join(b"%d" % value for value in hu.ravel())
    (folder / "text.nrrd").write_bytes(text + b"\n\n" + numbers + b"\n")
    save_dicom_series(folder / "series", hu, spacing_mm=SPACING_MM)
    save_dicom_series(folder / "packed_series", hu, spacing_mm=SPACING_MM, compressor="JPEG")
    for name, syntax in (("frames", ExplicitVRLittleEndian), ("packed_frames", JPEGLSLossless)):
        order = [2, 0, 3, 1]
        save_enhanced(folder / name / "IM1", order, hu=hu, spacing_mm=SPACING_MM, syntax=syntax)
    for path in save_dicom_series(folder / "bare_series", hu, spacing_mm=SPACING_MM).iterdir():
        path.write_bytes(path.read_bytes()[132:])  # no preamble
    weights = write_weights(folder / "weights")
    (weights / "tumor.safetensors").unlink()
    return sorted(path for path in folder.iterdir() if path.suffix != ".raw")


def mutate(data: bytes, rng: Generator) -> bytes:
    """One to some small changes, most of them where headers are."""
    for _ in range(rng.integers(1, MAX_MUTATIONS + 1)):
        data = MUTATIONS[rng.integers(len(MUTATIONS))](data, rng)
    return data


def _somewhere(data: bytes, rng: Generator) -> int:
    """A position; half of them in the first 400 bytes."""
    return int(rng.integers(0, min(len(data), 400 if rng.random() < 0.5 else len(data)) + 1))


def _flip_bit(data: bytes, rng: Generator) -> bytes:
    at = _somewhere(data, rng)
    return data[:at] + bytes(b ^ (1 << int(rng.integers(8))) for b in data[at : at + 1]) + data[at + 1 :]


def _overwrite(data: bytes, rng: Generator) -> bytes:
    at, word = _somewhere(data, rng), WORDS[rng.integers(len(WORDS))]
    return data[:at] + word + data[at + len(word) :]


def _noise(data: bytes, rng: Generator) -> bytes:
    at, n = _somewhere(data, rng), int(rng.integers(1, 17))
    return data[:at] + rng.bytes(n) + data[at + n :]


def _cut(data: bytes, rng: Generator) -> bytes:
    return data[: _somewhere(data, rng)]


def _delete(data: bytes, rng: Generator) -> bytes:
    at = _somewhere(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 33)) :]


def _repeat(data: bytes, rng: Generator) -> bytes:
    at, n = _somewhere(data, rng), int(rng.integers(1, 65))
    return data[: at + n] + data[at : at + n] * int(rng.integers(1, 4)) + data[at + n :]


def _change_number(data: bytes, rng: Generator) -> bytes:
    """Another number for one in a text header."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:2000]))
    if not found:
        return data
    match = found[rng.integers(len(found))]
    return data[: match.start()] + NUMBERS[rng.integers(len(NUMBERS))] + data[match.end() :]


def _drop_line(data: bytes, rng: Generator) -> bytes:
    head, *lines = data.split(b"\n")
    if lines:
        del lines[int(rng.integers(min(len(lines), 20)))]
    return b"\n".join([head, *lines])


MUTATIONS: list[Callable[[bytes, Generator], bytes]] = [
    *(_flip_bit, _overwrite, _overwrite, _noise, _cut, _delete, _repeat),
    *(_change_number, _change_number, _drop_line),
]


def make_input(seeds: list[Path], seed: int, index: int, folder: Path) -> Path:
    """Input `index` of `seed` under `folder`: a mutated copy of one of `seeds`."""
    rng = np.random.default_rng((seed, index))
    source = seeds[rng.integers(len(seeds))]
    target = folder / source.name
    if source.is_dir():
        shutil.copytree(source, target)
        files = sorted(target.iterdir())
        victim = files[rng.integers(len(files))]
    else:
        shutil.copy(source, target)
        victim = target
        if source.suffix in DETACHED:
            voxels = target.with_suffix(".raw")
            shutil.copy(source.with_suffix(".raw"), voxels)
            victim = voxels if rng.random() < 0.2 else target
    data = victim.read_bytes()
    if victim.suffix == ".gz" and rng.random() < 0.7:
        data = gzip.compress(mutate(gzip.decompress(data), rng), 1)
    elif victim.name == "packed.mha" and rng.random() < 0.4:
        head, local, body = data.partition(b"LOCAL\n")
        data = head + local + zlib.compress(mutate(zlib.decompress(body), rng))
    else:
        data = mutate(data, rng)
    victim.write_bytes(data)
    return target


# ------------------------------------------------------------------------------------------------ one input


def check(path: Path) -> str:
    """Read one input; "read" or "refused", or an `AssertionError` or whatever else was raised."""
    try:
        if (path / "kidney.safetensors").exists():
            load_weights(path / "kidney.safetensors", "kidney")
            return "read"
        ct = read_ct(path)
        assert ct.hu.dtype == np.int16
        assert ct.hu.shape == ct.native.canonical_shape
        if path.is_file():
            assert read_native_grid(path).canonical_shape == ct.hu.shape
        suffix = "".join(path.suffixes) if path.is_file() else ".nii.gz"
        written = path.with_name(f"labels{suffix}")
        labels = (ct.hu > 0).astype(np.uint8)
        write_label_map(written, labels, ct.native)
        again = read_ct(written)
        np.testing.assert_array_equal(again.hu, labels)
        np.testing.assert_allclose(again.native.affine, ct.native.affine, rtol=1e-4, atol=1e-3)
    except (CaseError, WeightsError) as error:
        text = str(error)
        assert str(path) in text, f"does not name its file: {text}"
        assert "\n" not in text, f"more than a line: {text}"
        assert "memory" not in text, f"takes memory: {text}"
        return "refused"
    return "read"


def work(seed: int, start: int, stop: int, keep: Path | None) -> None:
    """Check a range of inputs in this process; one line on stdout for each before and after."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "seeds"
        made.mkdir()
        seeds = make_seeds(made)
        for path in seeds:  # all libraries are loaded now, and the seeds themselves are sound
            assert check(path) == "read", path
        limit = _virtual_bytes("VmSize") + HARD_LIMIT_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        peak = _virtual_bytes("VmPeak")
        for index in range(start, stop):
            folder = Path(name) / "input"
            folder.mkdir()
            path = make_input(seeds, seed, index, folder)
            if keep is not None:
                shutil.rmtree(keep / "current", ignore_errors=True)
                shutil.copytree(folder, keep / "current")
            print("start", index, path.name, flush=True)
            used = _virtual_bytes("VmSize")
            signal.alarm(MAX_SECONDS)  # its default action ends this process, in whatever library it hangs
            try:
                outcome = check(path)
                taken = _virtual_bytes("VmPeak") - used
                assert taken < MAX_BYTES or taken <= peak - used, f"takes {taken >> 20} MiB"
            except Exception as error:
                outcome = "failed"
                print("trace", repr(traceback.format_exc()), flush=True)
                print("error", type(error).__name__, " ".join(str(error).split())[:300], flush=True)
            signal.alarm(0)
            peak = _virtual_bytes("VmPeak")
            print("end", outcome, flush=True)
            shutil.rmtree(folder)


def _virtual_bytes(which: str) -> int:
    """VmSize, the address space now, or VmPeak, the most there ever was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{which}:")).split()[1]) << 10


# ---------------------------------------------------------------------------------------------- all of them


def run(
    *, inputs: int, seed: int = 0, start: int = 0, keep: Path | None = None
) -> tuple[Counter[str], list[str]]:
    """Check `inputs` inputs from `start` on; counts of outcomes by seed file, and a line for each failure."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    index = start
    while index < start + inputs:
        command = [sys.executable, "-m", "tests.robustness.fuzz", "--worker", "--seed", str(seed)]
        command += ["--start", str(index), "--inputs", str(start + inputs - index)]
        command += ["--keep", str(keep)] if keep is not None else []
        name, is_open, detail = "", False, ""
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                word, _, rest = line.rstrip("\n").partition(" ")
                if word == "start":
                    number, name = rest.split(" ", 1)
                    index, is_open, detail = int(number) + 1, True, ""
                elif word == "error":
                    detail = rest
                elif word == "end":
                    is_open = False
                    counts[f"{name}: {rest}"] += 1
                    if rest == "failed":
                        failures.append(f"seed {seed} input {index - 1} ({name}): {detail}")
                        _keep(keep, index - 1)
        if is_open:  # the input that it died of; the next worker goes on behind it
            cause = (
                signal.Signals(-worker.returncode).name if worker.returncode < 0 else str(worker.returncode)
            )
            counts[f"{name}: failed"] += 1
            failures.append(f"seed {seed} input {index - 1} ({name}): the process ended with {cause}")
            _keep(keep, index - 1)
        elif worker.returncode:
            raise RuntimeError(f"the worker ended with {worker.returncode} between inputs")
    return counts, failures


def _keep(keep: Path | None, index: int) -> None:
    if keep is not None:
        shutil.rmtree(keep / str(index), ignore_errors=True)
        shutil.move(keep / "current", keep / str(index))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.robustness.fuzz", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None, help="folder for the inputs that fail")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.seed, options.start, options.start + options.inputs, options.keep)
        return
    counts, failures = run(inputs=options.inputs, seed=options.seed, start=options.start, keep=options.keep)
    for name, count in sorted(counts.items()):
        print(f"{count:7d}  {name}")
    print(f"{sum(counts.values())} inputs, {len(failures)} failures")
    print(*failures, sep="\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
