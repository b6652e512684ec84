"""Atomic writes: a file appears under its final name only when it is whole, whatever stops the process."""

import errno
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
    """A temporary path to write to. On success its file moves to the final name; on failure it is removed.

    Data is flushed to the disk before the move, because some file systems report a full disk only then.

    Args:
        path: the final name. Missing folders are made. Files beside the temporary path (a .mhd's voxels)
            move with it.

    Raises:
        OSError: the folder cannot be written, the disk is full, or the name is a device's, which would go.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EEXIST, "is no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    staging, lock = _locked_folder(path.parent)
    try:
        yield staging / path.name
        files = sorted(staging.iterdir(), key=lambda file: file.name == path.name)
        for file in files:
            with file.open("rb") as written:
                os.fsync(written.fileno())
        for file in files:
            file.replace(path.parent / file.name)  # the header (.mhd) last: it points to the voxels
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def sweep(folder: Path) -> None:
    """Remove temporary folders of killed processes; those of running ones (another shard, say) stay."""
    for staging in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(staging, ignore_errors=True)
            finally:
                os.close(lock)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and a lock on it. The kernel releases the lock when this process ends in any way."""
    while True:
        staging = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        try:
            lock = os.open(staging, os.O_RDONLY)
        except FileNotFoundError:  # swept by another process already
            continue
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if staging.exists():  # another process may have swept it before it was locked
            return staging, lock
        os.close(lock)
