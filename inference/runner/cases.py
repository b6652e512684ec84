"""Find the cases under the input folder, and name their outputs."""

import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from ..formats import dicom
from ..formats.ct import SUFFIXES

Naming = Literal["auto", "kits19", "same", "nnunet", "grand-challenge"]
NAMINGS: tuple[str, ...] = get_args(Naming)

KITS19_IMAGE, KITS19_SEGMENTATION = "imaging.nii.gz", "segmentation.nii.gz"
TOTALSEGMENTATOR_IMAGE, TOTALSEGMENTATOR_LABELS = "ct.nii.gz", "segmentations"
NNUNET_CHANNEL = "_0000"
NNUNET_NUMBER = re.compile(r"_(\d{4})$")
NNUNET_IMAGES, NNUNET_LABELS = ("imagesTr", "imagesTs", "imagesVal"), ("labelsTr", "labelsTs", "labelsVal")
GRAND_CHALLENGE_INPUTS = "inputs.json"
GRAND_CHALLENGE_IMAGES = "images"
GRAND_CHALLENGE_SLUG = "kidney-tumor-segmentation"
NIFTI_SUFFIX = ".nii.gz"
LOOKS_LIKE_A_CT = re.compile(
    r"\.(hdr|img|img\.gz|mgh|mgz|mnc|gipl|gipl\.gz|zip|tar|tgz|7z|rar)$"
    r"|\.(nii|nii\.gz|mha|mhd|nrrd|dcm|img|tar)\.(bz2|gz|lzma|xz|z|zip|zst)$"
)
"""Names of files that often hold a CT and are not read."""
MOST_NAMED = 10
"""In one line of the log."""

log = logging.getLogger("inference")


class UsageError(ValueError):
    """Wrong usage: reported before any work, exit code 2."""


@dataclass(frozen=True)
class Case:
    """One CT to segment.

    Attributes:
        name: for logs, reports and previews; unique in a run.
        source: the CT's file, or the folder of its DICOM series.
        output: the label map, relative to the output folder.
        series: which of the folder's DICOM series, where it has several.
        warnings: what looked odd about where it lies, each a line for log and report.
    """

    name: str
    source: Path
    output: Path
    series: str | None = None
    warnings: tuple[str, ...] = ()


Place = tuple[float, ...]
"""Position of a slice, mm."""


@dataclass(frozen=True)
class _Source:
    """An input, and what the files beside it tell about its name.

    Attributes:
        path: the file or the folder.
        number: which DICOM series of the folder it is, counted from 1, where it has several.
        is_channel: "_0000" at the end of its name is nnU-Net's channel and not a number.
        uid, places: of its DICOM series, and where the slices of that lie.
    """

    path: Path
    number: int = 0
    is_channel: bool = False
    uid: str = ""
    places: frozenset[Place] = frozenset()

    @property
    def series(self) -> str | None:
        """Which of the folder's series, where it has several."""
        return self.uid if self.number else None


@dataclass
class _PassedOver:
    """Files that are no case, for a warning."""

    not_read: list[Path] = field(default_factory=list)
    no_ct: list[Path] = field(default_factory=list)
    beside_images: list[Path] = field(default_factory=list)
    label_folders: list[Path] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A line for each kind."""
        texts = (
            (self.not_read, "looks like a CT, but is not read. Unpack it, or convert it to NIfTI"),
            (self.no_ct, "DICOM, but no CT (a localiser, a dose page or a report)"),
            (self.beside_images, "DICOM beside image files. Give it a folder of its own"),
            (self.label_folders, "label maps that belong to the CTs beside them"),
        )
        return [f"passed over: {_listed(paths)}: {text}" for paths, text in texts if paths]


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    return ", ".join(map(str, paths[:MOST_NAMED])) + more


def find_cases(
    root: Path,
    *,
    naming: Naming = "auto",
    outputs: Sequence[Path] = (),
    output_slug: str = GRAND_CHALLENGE_SLUG,
) -> list[Case]:
    """All CTs under a folder (or the one file given), sorted by path.

    A folder with `imaging.nii.gz` is one KiTS case, and one with `ct.nii.gz` and `segmentations/` is one of
    TotalSegmentator, whatever else they hold. A folder without image files but with DICOM files is a case for
    each CT series. Hidden files are skipped. Files that look like a CT but are not read are skipped with
    a warning. Links are followed, except those to a folder that contains them. A folder that cannot be listed
    or a broken link is a case too, and fails when it is read.
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
    passed_over = _PassedOver()
    sources = _single(root) if root.is_file() else list(_find_sources(root, outputs, passed_over))
    told = passed_over.lines()
    if not sources:
        detail = "".join(f"; {line}" for line in told)
        raise UsageError(
            f"{root}: no CT found ({', '.join(SUFFIXES)}, or a folder with a DICOM series){detail}"
        )
    for line in told:
        log.warning("%s", line)
    outputs_of = [(source, _output_name(source, base, naming, output_slug)) for source in sources]
    refuse_shared_outputs((source.path, output) for source, output in outputs_of)
    stems = {output: stem(output.as_posix()) for _, output in outputs_of}
    of_series: dict[str, list[_Source]] = defaultdict(list)
    for source in sources:
        if source.uid:
            of_series[source.uid].append(source)
    uses = Counter(stems.values())  # ct.mha beside ct.nii.gz: each keeps its suffix in its name
    return [
        Case(
            stems[output] if uses[stems[output]] == 1 else output.as_posix(),
            source.path,
            output,
            source.series,
            _split_warnings(source, of_series[source.uid]),
        )
        for source, output in outputs_of
    ]


def _split_warnings(source: _Source, of_series: Sequence[_Source]) -> tuple[str, ...]:
    """Whether further slices of its series lie in other folders; copies and phases lie at the same places."""
    others = [
        other.path
        for other in of_series
        if other.path != source.path and source.places.isdisjoint(other.places)
    ]
    if not others:
        return ()
    return (
        f"further slices of its DICOM series lie in {_listed(others)}, and each folder is taken for a CT of "
        "its own. Put all slices of a series in one folder",
    )


def refuse_shared_outputs(pairs: Iterable[tuple[Path, Path]]) -> None:
    """Check (source, output) pairs.

    Raises:
        UsageError: two sources would write one output.
    """
    by_output: dict[Path, list[Path]] = defaultdict(list)
    for source, output in pairs:
        by_output[output].append(source)
    for output, claimants in by_output.items():
        if len(claimants) > 1:
            raise UsageError(
                f"{' and '.join(map(str, claimants))} would both write {output}. "
                "Rename one, or choose another --output-naming"
            )


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


def _single(path: Path) -> list[_Source]:
    if not is_image(path):
        return []
    try:
        siblings = [other for other in path.parent.iterdir() if is_image(other)]
    except OSError:  # a file that may be read in a folder that may not be listed
        siblings = [path]
    return [_Source(path, is_channel=_are_channels(siblings) and _ends_as_channel(path))]


def _find_sources(root: Path, outputs: Sequence[Path], passed_over: _PassedOver) -> Iterator[_Source]:
    written = {os.path.realpath(folder) for folder in outputs}
    # folders, what they lie in, and whether that is a KiTS case
    stack: list[tuple[Path, frozenset[str], bool]] = [(root, frozenset(), False)]
    while stack:
        here, above, in_case = stack.pop()
        real = os.path.realpath(here)
        if real in above or (real in written and above):
            continue
        try:
            visible = sorted(path for path in here.iterdir() if not path.name.startswith("."))
        except OSError as error:
            if not above:
                raise UsageError(f"{root}: cannot be listed ({error.strerror}). Change its rights") from error
            yield _Source(here)
            continue
        files = [path for path in visible if not os.path.isdir(path)]
        images = [path for path in files if is_image(path)]
        is_case = any(path.name.lower() == KITS19_IMAGE for path in images)
        folders = _folders_with_cts([path for path in visible if os.path.isdir(path)], images, passed_over)
        stack.extend((folder, above | {real}, in_case or is_case) for folder in reversed(folders))
        if is_case or in_case:
            yield from (_Source(path) for path in images if path.name.lower() == KITS19_IMAGE)
            continue
        yield from _sources_of(here, files, images, visible, passed_over)


def _folders_with_cts(folders: list[Path], images: Sequence[Path], passed_over: _PassedOver) -> list[Path]:
    """The folders without those that hold label maps of the CTs beside them."""
    names = {folder.name for folder in folders}
    labels = set(NNUNET_LABELS) if not names.isdisjoint(NNUNET_IMAGES) else set()
    if any(path.name.lower() == TOTALSEGMENTATOR_IMAGE for path in images):
        labels.add(TOTALSEGMENTATOR_LABELS)
    passed_over.label_folders.extend(folder for folder in folders if folder.name in labels)
    return [folder for folder in folders if folder.name not in labels]


def _sources_of(
    here: Path, files: list[Path], images: list[Path], visible: list[Path], passed_over: _PassedOver
) -> Iterator[_Source]:
    """The cases of one folder."""
    series = [path for path in files if not is_image(path) and dicom.is_slice(path)]
    if images:
        are_channels = _are_channels(images)
        yield from (_Source(path, is_channel=are_channels and _ends_as_channel(path)) for path in images)
        if series:
            passed_over.beside_images.append(here)
    elif series:
        found = dicom.study(here)
        if not found.holds_a_ct:
            passed_over.no_ct.append(here)
        elif len(found.cases) > 1:
            for number, uid in enumerate(found.cases, start=1):
                yield _Source(here, number, uid=uid, places=found.places(uid))
        else:
            uid = next(iter([*found.cases, *found.series]), "")
            yield _Source(here, uid=uid, places=found.places(uid))
    elif is_image(here) and not visible:
        yield _Source(here)
    for path in files:
        if not is_image(path) and not os.path.exists(path):
            yield _Source(path)
        elif not is_image(path) and LOOKS_LIKE_A_CT.search(path.name.lower()):
            passed_over.not_read.append(path)


def is_image(path: Path) -> bool:
    """Whether a file is called as a CT that is read."""
    return path.name.lower().endswith(SUFFIXES)


def _are_channels(images: Sequence[Path]) -> bool:
    """Whether numbers at the ends of names are nnU-Net's channels: a CT has one alone."""
    numbers = [match[1] for path in images if (match := NNUNET_NUMBER.search(stem(path.name)))]
    return set(numbers) <= {NNUNET_CHANNEL.removeprefix("_")}


def _ends_as_channel(path: Path) -> bool:
    return stem(path.name).endswith(NNUNET_CHANNEL)


def _output_name(source: _Source, root: Path, naming: Naming, output_slug: str) -> Path:
    path = source.path
    relative = path.relative_to(root)
    is_series = os.path.isdir(path)
    # a KiTS19 image and a series are called after their folder, whose path may end in "." or be empty
    if is_series:
        identity = Path(os.path.abspath(path)).name  # noqa: PTH100  a link keeps its own name
        identity += f"_{source.number}" if source.number else ""
    elif path.name.lower() == KITS19_IMAGE:
        identity = Path(os.path.abspath(path.parent)).name  # noqa: PTH100
    else:
        identity = stem(path.name)
    if naming == "auto":
        naming = _layout(relative, source)
        if naming == "nnunet":
            folder = (
                relative.parent
            )  # the predictions of nnU-Net's imagesTs lie beside it, all others mirrored
            folder = folder.parent if folder.name in NNUNET_IMAGES else folder
            return folder / f"{identity.removesuffix(NNUNET_CHANNEL)}{_written_suffix(path)}"
    bare = identity.removesuffix(NNUNET_CHANNEL) if source.is_channel or is_series else identity
    match naming:
        case "kits19":
            return Path(f"prediction_{bare.removeprefix('case_')}.nii.gz")
        case "nnunet":
            # nnU-Net keeps the ending of its data set
            return Path(f"{bare}{_written_suffix(path)}")
        case "grand-challenge":
            return Path(GRAND_CHALLENGE_IMAGES, output_slug, f"{identity}.mha")
        case _:
            if is_series:
                return relative.parent / f"{identity}{NIFTI_SUFFIX}"
            if not _suffix(path.name):  # a link to nothing may have any name
                return relative
            return relative.with_name(f"{stem(path.name)}{_written_suffix(path)}")


def _layout(relative: Path, source: _Source) -> Naming:
    if relative.name.lower() == KITS19_IMAGE:
        return "kits19"
    if len(relative.parts) == 3 and relative.parts[0] == GRAND_CHALLENGE_IMAGES and relative.suffix == ".mha":
        return "grand-challenge"
    return "nnunet" if source.is_channel else "same"


def _written_suffix(path: Path) -> str:
    """The ending of a label map: its CT's in lower case, NIfTI's for a series."""
    return NIFTI_SUFFIX if os.path.isdir(path) else _suffix(path.name).lower()


def _suffix(name: str) -> str:
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    return name[len(name) - len(suffix) :]


def stem(name: str) -> str:
    """A file's name, or a path, without the ending of an image."""
    return name.removesuffix(_suffix(name))
