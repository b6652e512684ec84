"""Which cases lie under the input folder, and what their outputs are called."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from ..formats.ct import SUFFIXES
from ..formats.dicom import DIRECTORY, is_dicom

Naming = Literal["auto", "kits19", "same", "nnunet", "grand-challenge"]
NAMINGS: tuple[str, ...] = get_args(Naming)

KITS19_IMAGE = "imaging.nii.gz"
NNUNET_CHANNEL = "_0000"
GRAND_CHALLENGE_INPUTS = "inputs.json"
GRAND_CHALLENGE_IMAGES = "images"
GRAND_CHALLENGE_SLUG = "kidney-tumor-segmentation"
DICOM_SUFFIX = ".dcm"


class UsageError(ValueError):
    """The command cannot start as it was given: said before any work, exit code 2."""


@dataclass(frozen=True)
class Case:
    """One CT to segment.

    Attributes:
        name: for logs, reports and previews; unique in a run.
        source: the CT's file, or the folder of its DICOM series.
        output: the label map, relative to the output folder.
    """

    name: str
    source: Path
    output: Path


def find_cases(
    root: Path,
    *,
    naming: Naming = "auto",
    outputs: Sequence[Path] = (),
    output_slug: str = GRAND_CHALLENGE_SLUG,
) -> list[Case]:
    """All CTs under a folder (or the one file given), sorted by path.

    A folder with `imaging.nii.gz` is one KiTS19 case, whatever else it holds (its `segmentation.nii.gz`,
    say). A folder without image files but with DICOM files is one series. Hidden names are passed over.
    Links are followed, but for those that lead back to a folder that they lie in. What should be a CT and
    cannot be one (a folder that may not be listed, a link to nothing) is a case too, which fails when read.
    Where Grand Challenge's `inputs.json` lies in the folder, the one image that it names is the input.

    Args:
        root: the input folder, or one CT file.
        naming: how outputs are called; "auto" follows the layout that each input is in.
        outputs: folders this run writes to, whose files are no inputs even where they lie under `root`.
        output_slug: of the output socket, with Grand Challenge's naming.

    Raises:
        UsageError: no such folder, no CT in it, or two inputs that would write one output.
    """
    if not os.path.exists(root):
        raise UsageError(f"{root}: no such input. Mount or name a folder with CTs")
    base = root.parent if root.is_file() else root
    if (root / GRAND_CHALLENGE_INPUTS).is_file():
        root = _grand_challenge_image(root)
        naming = "grand-challenge" if naming == "auto" else naming
    sources = [root] if root.is_file() else list(_find_sources(root, outputs))
    if not sources or (root.is_file() and not root.name.endswith(SUFFIXES)):
        raise UsageError(f"{root}: no CT found ({', '.join(SUFFIXES)}, or a folder with a DICOM series)")
    by_output: dict[Path, list[Path]] = defaultdict(list)
    for source in sources:
        by_output[_output_name(source, base, naming, output_slug)].append(source)
    for output, claimants in by_output.items():
        if len(claimants) > 1:
            raise UsageError(
                f"{' and '.join(map(str, claimants))} would both write {output}. "
                "Rename one, or choose another --output-naming"
            )
    stems = {output: _stem(output.as_posix()) for output in by_output}
    uses = Counter(stems.values())  # ct.mha beside ct.nii.gz: each keeps its suffix in its name
    return [
        Case(stems[output] if uses[stems[output]] == 1 else output.as_posix(), source, output)
        for output, (source,) in by_output.items()
    ]


def as_dicom_seg(cases: Iterable[Case]) -> list[Case]:
    """The same cases, their outputs called as DICOM segmentation objects.

    Raises:
        UsageError: a case is no DICOM series, so that there is nothing to refer to.
    """
    cases = list(cases)
    for case in cases:
        if not case.source.is_dir():
            raise UsageError(
                f"{case.source}: is no DICOM series, and --output-format dicom-seg must refer to one. "
                "Leave the option out for this input"
            )
    return [
        replace(case, output=case.output.with_name(f"{_stem(case.output.name)}{DICOM_SUFFIX}"))
        for case in cases
    ]


def _grand_challenge_image(root: Path) -> Path:
    """The folder of the one image socket in `inputs.json`.

    A list with an object a socket; its description stands under "socket", in files made before 2025 under
    "interface" (grand-challenge.org, ComponentInterfaceValueSerializer). Image sockets have a relative path
    images/<slug>; other sockets (values, files) are passed over.
    """
    path = root / GRAND_CHALLENGE_INPUTS
    try:
        values = json.loads(path.read_bytes())
        sockets = [
            PurePosixPath((value.get("socket") or value["interface"])["relative_path"]) for value in values
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: is not the list of sockets that Grand Challenge writes ({error!r}). Correct it, or "
            "remove it"
        ) from error
    images = [s for s in sockets if s.parts[:1] == (GRAND_CHALLENGE_IMAGES,) and ".." not in s.parts]
    if len(images) != 1:
        named = ", ".join(map(str, images)) or "none"
        raise UsageError(f"{path}: names {len(images)} images ({named}). Use an interface with one, the CT")
    if not (root / images[0]).is_dir():
        raise UsageError(
            f"{root / images[0]}: no such folder, although {path} names it. Copy the input again"
        )
    return root / images[0]


def _find_sources(root: Path, outputs: Sequence[Path]) -> Iterator[Path]:
    written = {os.path.realpath(folder) for folder in outputs}
    stack: list[tuple[Path, frozenset[str]]] = [(root, frozenset())]  # folders, and what they lie in
    while stack:
        here, above = stack.pop()
        real = os.path.realpath(here)
        if real in above or (real in written and above):
            continue
        try:
            visible = sorted(path for path in here.iterdir() if not path.name.startswith("."))
        except OSError as error:
            if not above:
                raise UsageError(f"{root}: cannot be listed ({error.strerror}). Change its rights") from error
            yield here
            continue
        folders = [path for path in visible if os.path.isdir(path)]
        stack.extend((folder, above | {real}) for folder in reversed(folders))
        files = [path for path in visible if not os.path.isdir(path)]
        images = [path for path in files if path.name.endswith(SUFFIXES)]
        if any(path.name == KITS19_IMAGE for path in images):
            yield here / KITS19_IMAGE
        elif images:
            yield from images
        elif _is_series(files) or (here.name.endswith(SUFFIXES) and not visible):
            yield here
        yield from (path for path in files if not path.name.endswith(SUFFIXES) and not os.path.exists(path))


def _is_series(files: Sequence[Path]) -> bool:
    return any(is_dicom(path) for path in files if path.name != DIRECTORY)


def _output_name(source: Path, root: Path, naming: Naming, output_slug: str) -> Path:
    relative = source.relative_to(root)
    is_series = os.path.isdir(source)
    # a KiTS19 image and a series are called after their folder, whose path may end in "." or be empty
    if is_series:
        identity = Path(os.path.abspath(source)).name  # noqa: PTH100  a link keeps its own name
    elif source.name == KITS19_IMAGE:
        identity = Path(os.path.abspath(source.parent)).name  # noqa: PTH100
    else:
        identity = _stem(source.name)
    if naming == "auto":
        naming = _layout(relative, identity, is_series=is_series)
    match naming:
        case "kits19":
            return Path(f"prediction_{identity.removesuffix(NNUNET_CHANNEL).removeprefix('case_')}.nii.gz")
        case "nnunet":
            # nnU-Net keeps the ending of its data set
            ending = ".nii.gz" if is_series else source.name.removeprefix(_stem(source.name))
            return Path(f"{identity.removesuffix(NNUNET_CHANNEL)}{ending}")
        case "grand-challenge":
            return Path(GRAND_CHALLENGE_IMAGES, output_slug, f"{identity}.mha")
        case _:
            return relative.parent / f"{identity}.nii.gz" if is_series else relative


def _layout(relative: Path, identity: str, *, is_series: bool) -> Naming:
    if relative.name == KITS19_IMAGE:
        return "kits19"
    if len(relative.parts) == 3 and relative.parts[0] == GRAND_CHALLENGE_IMAGES and relative.suffix == ".mha":
        return "grand-challenge"
    if identity.endswith(NNUNET_CHANNEL) and not is_series:
        return "nnunet"
    return "same"


def _stem(name: str) -> str:
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")
    return name.removesuffix(suffix)
