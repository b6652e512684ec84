"""What the kidney network finds in real CTs, structure by structure, before any rule drops one.

    python -m benchmarks.structures CTS [--truth LABEL_MAPS] [--weights weights] [--csv FILE] [--only NAME]
                                    [--altered]

CTS is any input folder of `python -m inference`. Reference label maps (255: to be ignored) are files of the
CTs' names in LABEL_MAPS, or `segmentation.nii.gz` beside each CT. An `index.json` in CTS may name scans that
show no kidney (`{"name": {"labels": "no kidney in view"}}`). In a scan longer than the ROI, what is found in
each tile along z is listed too. With --altered each scan is also shown with more noise, with thicker slices,
in part … (`benchmarks.altered`), in the ROI alone.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.altered import altered
from inference import load_cascade
from inference.formats.ct import read_ct
from inference.geometry import KIDNEY, Roi, Vector, resample
from inference.method.cascade import locate_kidneys, look_coarsely, tile_centres
from inference.method.evidence import air_and_bone, segment_kidneys
from inference.method.method import DEFAULT
from inference.method.postprocess import Array, Box, keep_kidneys
from inference.method.roi import normalise, place_roi
from inference.networks.cascade import Cascade
from inference.networks.weights import WeightsMetadata
from inference.runner.cases import KITS19_SEGMENTATION, find_cases
from training.cache import IGNORE

PRINTED_WHOLE = ("ml", "hu", "kept")
MEANS, COARSE_MEANS = (0.9, 0.93, 0.95, 0.96, 0.97, 0.98), (0.01, 0.05, 0.1, 0.2, 0.3)
"""Thresholds that are tried."""


@dataclass(frozen=True)
class Structure:
    """One connected structure above 10 cm³ in what the kidney network calls kidney, on the ROI grid.

    Attributes:
        scan, view: where: in the ROI that the method places, or in a tile along z.
        ml: its volume.
        mean: of its probabilities.
        coarse: mean of the coarse network's probabilities; None where the weights have no such network.
        air, bone: share of air among its neighbouring voxels; of its own as dense as bone.
        hu: its mean in Hounsfield units.
        true: share of its voxels that the reference calls kidney or tumor; ignored voxels do not count.
        ignored: share of its voxels to be ignored.
        kept: whether the method keeps it, by all of its rules.
    """

    scan: str
    view: str
    ml: float
    mean: float
    coarse: float | None
    air: float
    bone: float
    hu: float
    true: float | None
    ignored: float | None
    kept: bool


@dataclass(frozen=True)
class View:
    """One ROI grid in one scan: what the kidney network was shown, and what it answered.

    Attributes:
        scan, name: of the scan and of this part of it.
        roi: where the grid lies in the CT.
        hu, probability: (z, y, x) on that grid.
        truth: the reference on that grid, if there is one.
        coarse: what the coarse network answered, on the same grid, if there is one.
    """

    scan: str
    name: str
    roi: Roi
    hu: NDArray[np.float32]
    probability: NDArray[np.float32]
    truth: NDArray[np.uint8] | None
    coarse: Array | None = None


def measure(view: View, metadata: WeightsMetadata) -> list[Structure]:
    """Every structure in one view of a scan, largest first; `metadata` is the kidney network's."""
    kept = segment_kidneys(view.probability, view.hu, metadata, DEFAULT, view.coarse).ids > 0
    rows = []
    for own, box in _all_structures(view, metadata.threshold):
        air, bone = air_and_bone(own, view.hu[box])
        rows.append(Structure(
            view.scan, view.name,
            ml=np.count_nonzero(own) * view.roi.spec.spacing_mm**3 / 1000,
            mean=float(view.probability[box][own].astype(np.float64).mean()),
            coarse=None if view.coarse is None else float(view.coarse[box][own].mean()),
            air=air, bone=bone, hu=float(np.nanmean(view.hu[box][own])),
            **_overlap(own, box, view.truth),
            kept=bool(kept[box][own].any()),
        ))  # fmt: skip
    return rows


def _all_structures(view: View, threshold: float) -> list[tuple[NDArray[np.bool_], Box]]:
    """Every structure above 10 cm³, largest first: a mask in a box one voxel larger."""
    found: list[tuple[NDArray[np.bool_], Box]] = []

    def note(own: NDArray[np.bool_], box: Box) -> bool:
        found.append((own, box))
        return False

    keep_kidneys(view.probability > threshold, view.roi.spec.spacing_mm**3, note)
    return found


def _overlap(own: NDArray[np.bool_], box: Box, truth: NDArray[np.uint8] | None) -> dict[str, Any]:
    if truth is None:
        return {"true": None, "ignored": None}
    inside = truth[box][own]
    counted = inside[inside != IGNORE]
    is_true = float((counted > 0).mean()) if counted.size else None
    return {"true": is_true, "ignored": float((inside == IGNORE).mean())}


def _on_roi(labels: NDArray[np.int16], roi: Roi) -> NDArray[np.uint8]:
    """A reference on the ROI grid: kidney (with tumor), and to be ignored what touches an ignored voxel."""
    kidney = resample(((labels > 0) & (labels != IGNORE)).astype(np.uint8), roi) > 0.5
    ignored = resample((labels == IGNORE).astype(np.uint8), roi) > 0.1
    return np.where(kidney, KIDNEY, np.where(ignored, IGNORE, 0)).astype(np.uint8)


@click.command()
@click.argument("cts", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--truth", type=click.Path(path_type=Path, exists=True), help="Folder with reference label maps."
)
@click.option("--weights", type=click.Path(path_type=Path), default=Path("weights"), show_default=True)
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the table there too.")
@click.option("--only", multiple=True, help="Scans whose name holds this; repeatable.")
@click.option("--altered", "is_altered", is_flag=True, help="Each scan in a dozen other ways, too.")
def main(
    cts: Path,
    truth: Path | None,
    weights: Path,
    csv_path: Path | None,
    only: tuple[str, ...],
    is_altered: bool,
) -> None:
    """Print the table."""
    cascade = load_cascade(weights, device="cpu")
    index = json.loads((cts / "index.json").read_text()) if (cts / "index.json").is_file() else {}
    names = [field.name for field in fields(Structure)]
    click.echo("  ".join([f"{names[0]:44}", *(f"{name:>9}" for name in names[1:])]))
    rows: list[Structure] = []
    for name, source, reference in with_references(cts, truth):
        if not only or any(part in name for part in only):
            is_empty = index.get(name, {}).get("labels", "").startswith("no kidney")
            for row in structures_of(name, source, cascade, reference, is_empty, is_altered=is_altered):
                rows.append(row)
                click.echo(_line(row))
    if any(row.true is not None or row.ignored for row in rows):
        _print_rules(rows)
    if csv_path is not None:
        with csv_path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)


def with_references(cts: Path, truth: Path | None) -> Iterator[tuple[str, Path, Path | None]]:
    """Name, CT and reference label map, if there is one, of each case (see above for where it lies)."""
    for case in find_cases(cts):
        path = case.source.with_name(KITS19_SEGMENTATION) if truth is None else truth / case.source.name
        yield case.name.removeprefix("prediction_"), case.source, path if path.is_file() else None


def structures_of(
    name: str,
    source: Path,
    cascade: Cascade,
    reference: Path | None,
    is_empty: bool,
    *,
    is_altered: bool = False,
) -> Iterator[Structure]:
    """All structures of one scan: tile by tile where it has several, and in the ROI; or altered."""
    ct, metadata = read_ct(source), cascade.kidney_metadata
    is_known = is_empty or reference is not None
    labels = read_ct(reference).hu if reference is not None else np.zeros_like(ct.hu)

    def look(
        scan: str, view: str, hu: NDArray[np.int16], seen: NDArray, spacing_mm: Vector, roi: Roi
    ) -> list[Structure]:
        on_roi = resample(hu, roi)
        probability = cascade.kidney(normalise(on_roi, roi.spec))
        truth = _on_roi(seen, roi) if is_known else None
        coarse = look_coarsely(hu, spacing_mm, roi, cascade)
        return measure(View(scan, view, roi, on_roi, probability, truth, coarse), metadata)

    if is_altered:
        for what, hu, seen, spacing_mm in altered(ct.hu, labels, ct.spacing_mm, np.random.default_rng(0)):
            roi = locate_kidneys(hu, spacing_mm, cascade)
            yield from look(f"{name}: {what}", "roi", hu, seen, spacing_mm, roi)
        return
    views = {"roi": locate_kidneys(ct.hu, ct.spacing_mm, cascade)}
    tiles = tile_centres(ct.hu.shape[0], ct.spacing_mm, metadata.roi)
    if len(tiles) > 1:
        for number, z in enumerate(tiles, start=1):
            tile = place_roi(ct.hu.shape, ct.spacing_mm, metadata.roi, centre_z_vox=z)
            views[f"tile {number}/{len(tiles)}"] = tile
    for view, roi in views.items():
        yield from look(name, view, ct.hu, labels, ct.spacing_mm, roi)


def _print_rules(rows: list[Structure]) -> None:
    """What each rule of the method drops in the ROIs, at several thresholds, and what of it is kidney."""
    known = [row for row in rows if row.view == "roi" and (row.true is not None or row.ignored)]
    dropped = {"all structures": known}
    dropped |= {f"mean < {mean}": [row for row in known if row.mean < mean] for mean in MEANS}
    seen = [row for row in known if row.coarse is not None]
    for mean in COARSE_MEANS:
        dropped[f"coarse mean < {mean}"] = [row for row in seen if row.coarse < mean]  # type: ignore[operator]
    dropped[f"air > {DEFAULT.max_air_contact}"] = [row for row in known if row.air > DEFAULT.max_air_contact]
    dropped[f"bone > {DEFAULT.max_bone_share}"] = [row for row in known if row.bone > DEFAULT.max_bone_share]
    dropped["all rules of the method"] = [row for row in known if not row.kept]
    click.echo(f"\n{'dropped by':28}{'false ones':>12}{'ml':>8}{'kidneys, ignored ones':>24}{'ml':>8}")
    for name, found in dropped.items():
        kidneys = [row.ml for row in found if max(row.true or 0, row.ignored or 0) > 0.5]
        false_ml = sum(row.ml for row in found) - sum(kidneys)
        click.echo(
            f"{name:28}{len(found) - len(kidneys):12}{false_ml:8.0f}{len(kidneys):24}{sum(kidneys):8.0f}"
        )


def _line(row: Structure) -> str:
    cells = [f"{row.scan:44.44}", f"{row.view:>9}"]
    for field in fields(Structure)[2:]:
        value = getattr(row, field.name)
        digits = 0 if field.name in PRINTED_WHOLE else 3
        cells.append(" " * 8 + "–" if value is None else f"{value:9.{digits}f}")
    return "  ".join(cells)


if __name__ == "__main__":
    main()
