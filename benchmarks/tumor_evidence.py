"""Each piece of tumor in CTs, with its mean probability: what `Method.min_mean_tumor_probability` rests on.

    python -m benchmarks.tumor_evidence CTS [--truth LABEL_MAPS] [--weights weights] [--threshold N]

CTS is any input folder of `python -m inference`. Reference label maps are files of the CTs' names in
LABEL_MAPS, or `segmentation.nii.gz` beside each CT; where there is none, or it labels no tumor, every piece
counts as false. Pieces are those within the kidneys, before this rule drops any.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from scipy import ndimage

from benchmarks.structures import with_references
from inference import load_cascade
from inference.formats.ct import read_ct
from inference.geometry import TUMOR, resample
from inference.method.method import DEFAULT
from inference.method.postprocess import CONNECTIVITY_26, keep_tumors
from inference.method.segment import segment
from inference.networks.cascade import Cascade

ALL = replace(DEFAULT, min_mean_tumor_probability=0.0)
MEANS = (0.5, 0.55, 0.6, 0.65, 0.7)


@dataclass(frozen=True)
class Piece:
    """A connected piece of tumor on the ROI grid: its volume, mean probability, and share of true tumor."""

    scan: str
    ml: float
    mean: float
    true: float


@click.command()
@click.argument("cts", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--truth", type=click.Path(path_type=Path, exists=True), help="Folder with reference label maps."
)
@click.option("--weights", type=click.Path(path_type=Path), default=Path("weights"), show_default=True)
@click.option("--threshold", type=float, help="Instead of the weights' own.")
@click.option("--only", multiple=True, default=("",), help="Scans whose name holds one of these.")
def main(cts: Path, truth: Path | None, weights: Path, threshold: float | None, only: Sequence[str]) -> None:
    """Print the pieces, and what each least mean would drop."""
    cascade = load_cascade(weights, device="cpu")
    if threshold is not None:
        metadata = replace(cascade.tumor_metadata, threshold=threshold)
        cascade = replace(cascade, tumor_metadata=metadata)
    rows: list[Piece] = []
    for name, source, reference in with_references(cts, truth):
        if any(part in name for part in only):
            for piece in pieces_of(name, source, cascade, reference):
                rows.append(piece)
                click.echo(f"{name:26.26}{piece.ml:8.1f} ml  mean {piece.mean:.2f}  true {piece.true:.2f}")
    true = [row for row in rows if row.true > 0.5]
    false = [row for row in rows if row.true <= 0.5]
    click.echo(f"\n{'dropped by':16}{'false pieces':>14}{'ml':>8}{'true pieces':>14}{'ml':>8}")
    for least in (*MEANS, 1.1):
        cells = [f"{'mean < ' + str(least) if least < 1 else 'all pieces':16}"]
        for kind in (false, true):
            dropped = [row.ml for row in kind if row.mean < least]
            cells.append(f"{len(dropped):14}{sum(dropped):8.1f}")
        click.echo("".join(cells))


def pieces_of(name: str, source: Path, cascade: Cascade, reference: Path | None) -> Iterator[Piece]:
    """The pieces of one CT."""
    ct, metadata = read_ct(source), cascade.tumor_metadata
    found = segment(ct.hu, ct.spacing_mm, cascade, ALL)
    hu = resample(ct.hu, found.roi)
    truth = np.zeros(hu.shape, dtype=bool)
    if reference is not None:
        truth = resample((read_ct(reference).hu == TUMOR).astype(np.uint8), found.roi) > 0.5
    kept = keep_tumors(found.tumor_on_roi, found.structures, hu, metadata, ALL)
    pieces, _ = ndimage.label((kept > metadata.threshold) & (found.structures.ids > 0), CONNECTIVITY_26)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        own = pieces[box] == number
        ml = float(own.sum()) * metadata.roi.spacing_mm**3 / 1000
        yield Piece(name, ml, float(kept[box][own].mean()), float(truth[box][own].mean()))


if __name__ == "__main__":
    main()
