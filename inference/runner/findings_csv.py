"""findings.csv: one row for each kidney and each tumor, for spreadsheets and statistics."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..formats.staging import staged
from .report import CaseReport

COLUMNS = (
    "case", "structure", "kind", "side", "kidney", "ml", "tumor_ml", "hu_mean", "hu_sd", "mean_probability",
    "x_lps_mm", "y_lps_mm", "z_lps_mm",
    "box_x_min_mm", "box_y_min_mm", "box_z_min_mm", "box_x_max_mm", "box_y_max_mm", "box_z_max_mm",
    "cut_by_scan", "cut_by_region",
    "axial_diameter_mm", "axial_slice_index", "axial_slice_lps_mm", "largest_extent_mm",
    "share_inside_kidney",
)  # fmt: skip
"""An empty cell: that kind of structure has no such number. docs/report.md tells each one's unit."""
COPIED = set(COLUMNS[3:10]) | set(COLUMNS[-5:]) | {"cut_by_region"}


def findings_csv(cases: Iterable[CaseReport]) -> str:
    """The rows of some cases, kidneys before tumors, under one header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for case in cases:
        for kind, structures in (("kidney", case.kidneys), ("tumor", case.tumors)):
            for structure in structures:
                writer.writerow(_row(case.name, kind, structure))
    return text.getvalue()


def write_findings(path: Path, cases: Sequence[CaseReport]) -> None:
    """Write findings.csv, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with staged(path) as partial:
        # a file's name need not be UTF-8: its bytes are written as they are
        partial.write_text(findings_csv(cases), encoding="utf-8", errors="surrogateescape")


def _row(case: str, kind: str, structure: dict[str, Any]) -> dict[str, Any]:
    row = {"case": case, "structure": structure["name"], "kind": kind}
    row |= {key: value for key, value in structure.items() if key in COPIED}
    row |= dict(zip(COLUMNS[10:13], structure["centroid_lps_mm"], strict=True))
    if kind == "kidney":
        row |= dict(
            zip(COLUMNS[13:19], (v for corner in structure["box_lps_mm"] for v in corner), strict=True)
        )
        row["cut_by_scan"] = " ".join(structure["cut_by_scan"])
    return row
