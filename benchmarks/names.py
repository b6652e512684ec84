"""Short names for cases of several folders, which may call two cases alike."""

from collections.abc import Collection
from pathlib import Path


def short_names(paths: Collection[Path]) -> dict[Path, str]:
    """For each path as many of its last parts as tell it from all the others: one, as a rule."""
    return {path: _short(path, paths) for path in paths}


def _short(path: Path, paths: Collection[Path]) -> str:
    for n in range(1, len(path.parts)):
        tail = path.parts[-n:]
        if not any(other.parts[-n:] == tail for other in paths if other != path):
            return "/".join(tail)
    return str(path)
