"""What PyTorch's CUDA wheels bring into the image, what of it is loaded, and what the image drops.

    pip download torch==2.13.0 --only-binary=:all: -d FOLDER     (2.7 GB)
    python -m benchmarks.wheels FOLDER

Loaded are the libraries that `import torch` asks the loader for, and those that they open by name later
(`OPENED`). Needs `readelf`, but no GPU.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from zipfile import ZipFile, ZipInfo

import click

DROPPED_PACKAGES = (
    "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "filelock", "setuptools", "triton"
)  # fmt: skip
"""Uninstalled by the Dockerfile."""
DROPPED_FILES = (
    "torch/test/*", "torch/include/*", "torch/share/*", "*.a", "*.pyi", "torch/bin/protoc*",
    "torch/lib/libtorch_cuda_linalg.so",
    "nvidia/*/include/*",
    "nvidia/cu13/lib/libcusolver*",
    "nvidia/cu13/lib/libnvrtc*.alt.so*",
    "nvidia/cu13/lib/libnvperf*",
    "nvidia/cu13/lib/libpcsamplingutil*",
    "nvidia/cu13/lib/libcheckpoint*",
    "nvidia/cu13/lib/libcufftw*",
    "nvidia/cu13/lib/libnvblas*",
    "nvidia/cu13/lib/libcufile_rdma*",
    "nvidia/nvshmem/lib/nvshmem_*",
    "nvidia/nvshmem/lib/*.bc",
)  # fmt: skip
"""Removed by the Dockerfile, which a test compares."""
OPENED = (
    "libcudnn_graph.so*", "libcudnn_ops.so*", "libcudnn_cnn.so*", "libcudnn_heuristic.so*",
    "libcudnn_engines_*.so*", "libnvrtc-builtins.so*",
)  # fmt: skip
"""Opened by name: by cuDNN for convolutions, by NVRTC for what cuDNN compiles."""
FIRST = "libtorch_python.so"


@dataclass
class Row:
    """Megabytes of one wheel: as downloaded, unpacked, in libraries that are loaded, dropped from the image.

    `kept_compressed` is what is left of the download then.
    """

    name: str
    compressed: float = 0.0
    unpacked: float = 0.0
    loaded: float = 0.0
    dropped: float = 0.0
    kept_compressed: float = 0.0


def is_dropped(package: str, file: str) -> bool:
    """Whether the Dockerfile removes a file of a package."""
    return package.lower() in DROPPED_PACKAGES or any(fnmatchcase(file, p) for p in DROPPED_FILES)


def needed(libraries: dict[str, list[str]], first: Iterable[str]) -> set[str]:
    """The libraries that are loaded with `first`, themselves included, of those that are there.

    Args:
        libraries: which libraries each one needs, by file name.
        first: file names.
    """
    found: set[str] = set()
    waiting = [name for name in first if name in libraries]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in libraries[name] if other in libraries]
    return found


def needs(wheel: ZipFile, info: ZipInfo) -> list[str]:
    """The libraries that a library asks the loader for (DT_NEEDED)."""
    with tempfile.TemporaryDirectory() as folder:
        path = wheel.extract(info, folder)
        text = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", text)


def is_library(info: ZipInfo) -> bool:
    """By its name."""
    return re.search(r"\.so(\.\d+)*$", info.filename) is not None


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Print the table: one row a wheel of FOLDER, the largest first, in MB (10⁶ bytes)."""
    wheels = {path.name.split("-")[0]: path for path in sorted(folder.glob("*.whl"))}
    libraries: dict[str, list[str]] = {}
    for path in wheels.values():
        with ZipFile(path) as wheel:
            for info in filter(is_library, wheel.infolist()):
                libraries[PurePosixPath(info.filename).name] = needs(wheel, info)
    loaded = needed(libraries, [FIRST, *(n for n in libraries if any(fnmatchcase(n, p) for p in OPENED))])
    rows = [row_of(name, path, loaded) for name, path in wheels.items()]
    rows.sort(key=lambda row: -row.unpacked)
    total = Row("all")
    for row in rows:
        for key in ("compressed", "unpacked", "loaded", "dropped", "kept_compressed"):
            setattr(total, key, getattr(total, key) + getattr(row, key))
    click.echo(
        f"{'MB':24}{'compressed':>12}{'unpacked':>10}{'loaded':>10}{'dropped':>10}{'kept':>10}{'compr.':>8}"
    )
    for row in [*(row for row in rows if row.unpacked >= 1), total]:
        kept = row.unpacked - row.dropped
        click.echo(
            f"{row.name:24}{row.compressed:12.1f}{row.unpacked:10.1f}{row.loaded:10.1f}{row.dropped:10.1f}"
            f"{kept:10.1f}{row.kept_compressed:8.1f}"
        )


def row_of(package: str, path: Path, loaded: set[str]) -> Row:
    """Sum up one wheel."""
    row = Row(package, path.stat().st_size / 1e6)
    with ZipFile(path) as wheel:
        for info in wheel.infolist():
            size = info.file_size / 1e6
            row.unpacked += size
            if PurePosixPath(info.filename).name in loaded:
                row.loaded += size
            if is_dropped(package, info.filename):
                row.dropped += size
            else:
                row.kept_compressed += info.compress_size / 1e6
    return row


if __name__ == "__main__":
    main()
