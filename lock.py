"""Prints the pinned packages of some extras from requirements.lock; updates that file.

    python lock.py openvino dicom > pins.txt     pinned with hashes, for  pip install --no-deps -r pins.txt
    python lock.py --unhashed torch              the rest: torch, whose wheel differs by package index
    python lock.py --plain openvino torch        names and versions alone, all of them
    python lock.py --without-base dicom          only what these extras add
    python lock.py --without-base --with pydicom dicom       and this package
    python lock.py --update                      resolve pyproject.toml again (needs uv and a network)

pyproject.toml says what the project needs, requirements.lock which versions were tried. requirements.txt is
the part of inference, without hashes, for  pip install -r  and for tools that look for this name. Extras
(openvino, torch, dicom, evaluate, train, dev, audit) add to the base packages. Needs the standard library
only.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "requirements.lock"
REQUIREMENTS = ROOT / "requirements.txt"
INFERENCE = ("openvino", "torch", "dicom")
"""The extras in `REQUIREMENTS`."""
HEADER = """\
# Made by `python lock.py --update` from pyproject.toml. `python lock.py EXTRA...` prints parts of it.
"""
BASE = "base"
"""What every use needs, as the lock calls it beside the extras."""
UNHASHED = "torch"
BY_INDEX = ("cuda-", "nvidia-", "triton")
"""What torch of PyPI needs and its CPU build does not: left to pip, which asks torch itself."""


@dataclass(frozen=True)
class Pin:
    """One package of the lock: `name==version` with its marker, its hashes, and the extras that need it."""

    version: str
    hashes: tuple[str, ...]
    extras: frozenset[str]

    @property
    def name(self) -> str:
        """As package indexes spell it."""
        return self.version.partition("==")[0]

    def __str__(self) -> str:
        return " \\\n    ".join((self.version, *self.hashes))


def read_lock() -> Iterator[Pin]:
    """All pins, in the order of the file."""
    for block in re.split(r"^(?=[a-z0-9])", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        version, *rest = (line.strip().removesuffix("\\").strip() for line in block.splitlines())
        extras = next(line.removeprefix("# for ") for line in rest if line.startswith("# for "))
        yield Pin(version, tuple(line for line in rest if line[:2] == "--"), frozenset(extras.split(", ")))


def update() -> None:
    """Resolve again for all Pythons and systems; versions in the lock stay unless they no longer fit."""
    everything = [
        "--output-file",
        str(LOCK),
        "--generate-hashes",
        "--all-extras",
    ]  # uv keeps the file's versions
    _compile(*everything)
    needs = {BASE: _names(_compile("--constraints", str(LOCK)))}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in project["optional-dependencies"]:
        needs[extra] = _names(_compile("--constraints", str(LOCK), "--extra", extra))
    lines = [HEADER.rstrip()]
    for block in re.split(r"^(?=[a-z0-9])", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE):
        pin = block.rstrip()
        name = pin.partition("==")[0]
        if not name or name.startswith(BY_INDEX):
            continue
        if name == UNHASHED:
            pin = pin.splitlines()[0].removesuffix("\\").strip()
        extras = [BASE] if name in needs[BASE] else [extra for extra, names in needs.items() if name in names]
        lines += [pin, f"    # for {', '.join(extras)}"]
    LOCK.write_text("\n".join(lines) + "\n", encoding="utf-8")
    REQUIREMENTS.write_text(requirements(), encoding="utf-8")


def requirements() -> str:
    """What `REQUIREMENTS` holds: names and versions of all that inference may need."""
    pins = [pin.version for pin in select(read_lock(), INFERENCE)]
    return "\n".join(["# Made by `python lock.py --update`: inference with every option.", *pins]) + "\n"


def _compile(*options: str) -> str:
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--universal", "--no-annotate"]
    command += ["--fork-strategy", "fewest", "--no-header", "--quiet", *options]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def _names(compiled: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", compiled, re.MULTILINE))


def select(
    pins: Iterable[Pin], extras: Iterable[str], *, with_base: bool = True, names: Iterable[str] = ()
) -> list[Pin]:
    """The pins of some extras, of the base packages, and of the packages in `names`.

    Raises:
        ValueError: no such extra, or no such package.
    """
    pins, wanted = list(pins), {*extras}
    known = frozenset[str]().union(*(pin.extras for pin in pins)) - {BASE}
    if unknown := wanted - known:
        raise ValueError(f"no such extra: {', '.join(sorted(unknown))}. There are {', '.join(sorted(known))}")
    names = {*names}
    if unknown := names - {pin.name for pin in pins}:
        raise ValueError(f"no such package in the lock: {', '.join(sorted(unknown))}")
    if with_base:
        wanted.add(BASE)
    return [pin for pin in pins if pin.extras & wanted or pin.name in names]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("extras", nargs="*", metavar="EXTRA")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--unhashed", action="store_true", help="only what has no hashes")
    mode.add_argument("--plain", action="store_true", help="all, without hashes")
    mode.add_argument("--update", action="store_true", help="make the lock again")
    parser.add_argument("--without-base", action="store_true", help="only what the extras add")
    parser.add_argument("--with", dest="names", action="append", default=[], metavar="NAME",
                        help="this package too; may be given again")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.update:
        update()
        return
    try:
        pins = select(
            read_lock(), arguments.extras, with_base=not arguments.without_base, names=arguments.names
        )
    except ValueError as error:
        parser.error(str(error))
    for pin in pins:
        if arguments.plain:
            print(pin.version)
        elif bool(pin.hashes) != arguments.unhashed:
            print(pin)


if __name__ == "__main__":
    main()
