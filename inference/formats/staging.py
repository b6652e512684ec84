"""Files that appear under their final names only when they are whole, whatever stops the process."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".partial-"


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path to write to; what lies there at the end is moved to its final name, whole.

    Written data is on the disk before it gets its name: some file systems tell of a full disk only then.

    Args:
        path: the final name. Missing folders are made. Files beside the staged path (a .mhd's voxels) move
            along with it.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging, lock = _locked_folder(path.parent)
    try:
        yield staging / path.name
        files = sorted(staging.iterdir(), key=lambda file: file.name == path.name)
        for file in files:
            with file.open("rb") as written:
                os.fsync(written.fileno())
        for file in files:
            file.replace(path.parent / file.name)  # a .mhd comes after the voxels that it points to
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def sweep(folder: Path) -> None:
    """Remove what a killed process left behind; what a living one (another shard, say) writes stays."""
    for staging in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(staging, ignore_errors=True)
            finally:
                os.close(lock)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and the lock on it, which ends with this process however that ends."""
    while True:
        staging = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = os.open(staging, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if staging.exists():  # else another process swept it before the lock was set
            return staging, lock
        os.close(lock)
