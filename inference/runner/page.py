"""`--html FILE`: one self-contained page per run.

Pictures are kept as they come, one case after the other; the text around them is made from the records that
the report holds, so that every number on the page is the report's. The page may load nothing (its own
Content-Security-Policy says so), sorts its table with a few lines of script and can be read without them.
"""

import base64
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..formats.ct import Ct
from ..formats.outline import outlines
from ..formats.staging import staged
from ..geometry import KIDNEY, TUMOR, Shape
from .findings import Findings
from .findings_csv import findings_csv
from .flags import RULES
from .product import product
from .report import CaseReport
from .slices import FIELD_MM, WINDOW_HU, Slice, cut, fullest, grey

PIXEL_MM = 0.9
LEAST_FIELD_MM, MOST_FIELD_MM, MARGIN_MM = 120.0, 220.0, 40.0
"""Margin around a structure in its picture."""
QUALITY = 45
"""WebP quality: a low one is enough, since outlines are drawn above the picture."""
MOST_TUMORS = 4
"""Most structures that get pictures, the largest first; the tables list all."""
AXIAL_SHARES = (0.25, 0.75)
"""Further axial slices of a tumor: at these parts of its height."""
LETTER_SHARE = 0.055
"""Of a picture's longer side: the letters that tell the patient's sides."""
TEMPLATE = Path(__file__).with_name("page.html")
PICTURES = re.compile(r'<div class="pictures" data-case="([^"]*)">(.*?)</div><!--pictures-->', re.DOTALL)
NO_VALUE = "–"


class Page:
    """The page of one run.

    Attributes:
        path: the HTML file. Pictures of an earlier page there stay with cases that this run passes over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pictures: dict[str, str] = {}
        if path.is_file():
            earlier = path.read_text(encoding="utf-8", errors="replace")
            self._pictures = {name: pictures for name, pictures in PICTURES.findall(earlier)}

    def add(self, name: str, ct: Ct, labels: NDArray[np.uint8], findings: Findings) -> None:
        """Take the pictures of a case: three planes through each kidney and tumor, or else the middle.

        Args:
            name: the case's.
            ct: the CT.
            labels: (z, y, x), same voxels.
            findings: of these labels.
        """
        self._pictures.pop(escape(name), None)  # those of an earlier result, even if the new ones fail
        self._pictures[escape(name)] = "".join(_pictures(ct, labels, findings))

    def write(self, cases: Sequence[CaseReport], run: dict[str, Any]) -> None:
        """Write the page, whole or not at all.

        Args:
            cases: the records so far.
            run: what the report says of the whole run.

        Raises:
            OSError: it cannot be written.
        """
        fields = {
            "title": f"{product()['name']}: {_count(len(cases), 'case')}",
            "about": escape(_about(run)),
            "window": f"{WINDOW_HU[0]:.0f} to {WINDOW_HU[1]:.0f} HU",
            "csv": _csv_link(cases, "findings.csv", "findings.csv (all cases)"),
            "rows": "\n".join(_row(number, case) for number, case in enumerate(cases)),
            "cases": "\n".join(_section(i, case, self._pictures_of(case)) for i, case in enumerate(cases)),
            "rules": "".join(f"<tr><td>{rule.name}</td><td>{escape(str(rule))}</td></tr>" for rule in RULES),
        }
        with staged(self.path) as partial:
            text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(fields)
            partial.write_text(text, encoding="utf-8", errors="replace")

    def _pictures_of(self, case: CaseReport) -> str:
        if case.status not in ("written", "skipped"):
            return ""
        name = escape(case.name)
        if not (pictures := self._pictures.get(name)):
            return ""
        return f'<div class="pictures" data-case="{name}">{pictures}</div><!--pictures-->'


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _about(run: dict[str, Any]) -> str:
    built = product()
    parts = [f"{built['name']} {built['version']}"]
    if built["commit"]:
        parts.append(f"commit {str(built['commit'])[:12]}")
    weights = run.get("weights") or {}
    parts += [f"{stage} weights {w['version']}" for stage, w in weights.items() if isinstance(w, dict)]
    parts += [f"{key} {run[key]}" for key in ("device", "backend") if key in run]
    return ", ".join(parts)


# ------------------------------------------------------------------------------------------------ text


def _show(value: object) -> str:
    """A number as the report has it."""
    return NO_VALUE if value is None or value == "" else escape(str(value))


def _cell(value: object, decimals: int | None = None, *, is_number: bool = True) -> str:
    """A table's cell: numbers, and what is missing among them, stand to the right."""
    if isinstance(value, float) and decimals is not None:
        value = f"{value:.{decimals}f}"
    kind = ' class="n"' if is_number else ""
    return f"<td{kind}>{_show(value)}</td>"


def _row(number: int, case: CaseReport) -> str:
    left, right = (
        " + ".join(f"{k['ml']:.{DECIMALS['ml']}f}" for k in case.kidneys if k["side"] == side)
        for side in ("left", "right")
    )
    diameters = [tumor["axial_diameter_mm"] for tumor in case.tumors]
    cells = [
        _cell(case.kidney_ml, DECIMALS["ml"]), _cell(left), _cell(right),
        _cell(case.tumor_ml, DECIMALS["tumor_ml"]),
        _cell(len(case.tumors) if case.input else None),
        _cell(max(diameters, default=None), DECIMALS["axial_diameter_mm"]),
        _cell(len(case.flags) + len(case.warnings)),
    ]  # fmt: skip
    name = f'<td><a href="#case-{number}">{escape(case.name)}</a></td>'
    return f'<tr>{name}<td class="{case.status}">{case.status}</td>{"".join(cells)}</tr>'


def _section(number: int, case: CaseReport, pictures: str) -> str:
    parts = [f'<section id="case-{number}"><h2>{escape(case.name)}</h2>', f"<p>{_facts(case)}</p>"]
    if case.error:
        parts.append(f'<p class="failed">{escape(case.error)}</p>')
    notes = [f"<b>{flag['rule']}</b> {escape(flag['text'])}" for flag in case.flags]
    notes += [f"<b>input</b> {escape(warning)}" for warning in case.warnings]
    if notes:
        parts.append(f'<ul class="flags">{"".join(f"<li>{note}</li>" for note in notes)}</ul>')
    if case.kidneys:
        parts += [_kidney_table(case), _tumor_table(case) if case.tumors else "<p>No tumor found.</p>"]
        parts.append(f"<p>{_csv_link([case], _file_name(case), 'CSV of this case')}</p>")
    return "".join([*parts, pictures, "</section>"])


def _facts(case: CaseReport) -> str:
    facts = [f"{case.status}", f"source {escape(case.source)}", f"output {escape(case.output)}"]
    if case.input:
        spacing = " × ".join(f"{s:g}" for s in case.input["spacing_mm"])
        shape = " × ".join(map(str, case.input["shape_vox"]))
        facts.append(f"{shape} voxels of {spacing} mm (z × y × x)")
        facts += [
            f"{key.replace('_', ' ')} {escape(uid)}" for key, uid in (case.input["dicom"] or {}).items()
        ]
    return "; ".join(facts)


KIDNEY_COLUMNS = {
    "name": "kidney", "ml": "ml", "tumor_ml": "tumor ml", "hu_mean": "HU mean", "hu_sd": "HU sd",
    "mean_probability": "probability", "centroid_lps_mm": "centre x, y, z (LPS mm)",
    "box_lps_mm": "box from / to (LPS mm)", "cut_by_scan": "cut by scan",
}  # fmt: skip
TUMOR_COLUMNS = {
    "name": "tumor", "kidney": "in", "ml": "ml", "axial_diameter_mm": "axial diameter mm",
    "axial_slice_index": "in slice", "largest_extent_mm": "largest extent mm", "hu_mean": "HU mean",
    "hu_sd": "HU sd", "mean_probability": "probability", "share_inside_kidney": "share in kidney",
    "centroid_lps_mm": "centre x, y, z (LPS mm)",
}  # fmt: skip
DECIMALS = {
    "ml": 2, "tumor_ml": 2, "hu_mean": 1, "hu_sd": 1, "mean_probability": 3, "axial_diameter_mm": 1,
    "axial_slice_index": 0, "largest_extent_mm": 1, "share_inside_kidney": 3,
}  # fmt: skip
"""Of the columns that hold numbers, as the report rounds them."""


def _kidney_table(case: CaseReport) -> str:
    return _table(KIDNEY_COLUMNS, case.kidneys)


def _tumor_table(case: CaseReport) -> str:
    return _table(TUMOR_COLUMNS, case.tumors)


def _table(columns: dict[str, str], structures: Sequence[dict[str, Any]]) -> str:
    head = "".join(
        f'<th class="n">{title}</th>' if key in DECIMALS else f"<th>{title}</th>"
        for key, title in columns.items()
    )
    rows = "".join(
        f"<tr>{''.join(_structure_cell(key, structure[key]) for key in columns)}</tr>"
        for structure in structures
    )
    table = f'<table class="data"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _structure_cell(key: str, value: Any) -> str:
    return _cell(_flat(value), DECIMALS.get(key), is_number=key in DECIMALS)


def _flat(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if value and isinstance(value[0], list):
        return " / ".join(", ".join(map(str, corner)) for corner in value)
    return ", ".join(map(str, value)) or "no"


def _file_name(case: CaseReport) -> str:
    return re.sub(r"[^\w.-]+", "_", case.name) + ".csv"


def _csv_link(cases: Sequence[CaseReport], file_name: str, text: str) -> str:
    data = base64.b64encode(findings_csv(cases).encode("utf-8", errors="replace")).decode()
    return f'<a download="{escape(file_name)}" href="data:text/csv;base64,{data}">{text}</a>'


# -------------------------------------------------------------------------------------------- pictures


def _pictures(ct: Ct, labels: NDArray[np.uint8], findings: Findings) -> Iterator[str]:
    parts = findings.parts
    for number, tumor in enumerate(findings.tumors[:MOST_TUMORS], 1):
        title = f"{tumor.name} in the {tumor.kidney}: {tumor.ml} ml, {tumor.axial_diameter_mm} mm"
        yield _group(title, ct, labels, parts.tumors == number, findings, AXIAL_SHARES)
    for number, kidney in enumerate(findings.kidneys, 1):
        title = f"{kidney.name}: {kidney.ml} ml" + " without its tumors" * (kidney.tumor_ml > 0)
        yield _group(title, ct, labels, parts.kidneys == number, findings, ())
    if not findings.kidneys:
        z, y, x = (n // 2 for n in labels.shape)
        pieces = [cut(ct, labels, axis, (z, y, x), FIELD_MM) for axis in range(3)]
        yield _titled("no kidney found: the middle of the CT", map(_figure, pieces))


def _titled(title: str, figures: Iterable[str]) -> str:
    return f'<h3>{escape(title)}</h3><div class="row">{"".join(figures)}</div>'


def _group(
    title: str,
    ct: Ct,
    labels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    findings: Findings,
    shares: Sequence[float],
) -> str:
    """The planes through one structure: each the one with most of it, and further axial ones."""
    where = [np.flatnonzero(mask.any(tuple(b for b in range(3) if b != a))) for a in range(3)]
    start = [side.start for side in findings.parts.box]
    middle = [start[a] + int(where[a][0] + where[a][-1]) // 2 for a in range(3)]
    extent_mm = max((w[-1] - w[0] + 1) * s for w, s in zip(where, ct.spacing_mm, strict=True))
    field_mm = float(np.clip(extent_mm + MARGIN_MM, LEAST_FIELD_MM, MOST_FIELD_MM))
    best = [start[a] + fullest(mask, a) for a in range(3)]
    low, high = start[0] + int(where[0][0]), start[0] + int(where[0][-1])
    heights = sorted({best[0], *(round(low + share * (high - low)) for share in shares)}, reverse=True)
    planes = [(0, z) for z in heights] + [(1, best[1]), (2, best[2])]
    figures = []
    for axis, index in planes:
        centre = list(middle)
        centre[axis] = index
        figures.append(_figure(cut(ct, labels, axis, _shape(centre), field_mm)))
    return _titled(title, figures)


def _shape(values: Sequence[int]) -> Shape:
    z, y, x = values
    return (z, y, x)


def _figure(piece: Slice) -> str:
    height, width = (round(n * mm, 1) for n, mm in zip(piece.hu.shape, piece.voxel_mm, strict=True))
    file = io.BytesIO()
    Image.fromarray(grey(piece, PIXEL_MM)).save(file, format="WEBP", quality=QUALITY, method=4)
    data = base64.b64encode(file.getvalue()).decode()
    row_mm, column_mm = piece.voxel_mm
    paths = "".join(
        f'<path class="{kind}" transform="scale({column_mm:.5g} {row_mm:.5g})" d="{path}"/>'
        for kind, label in (("k", KIDNEY), ("t", TUMOR))
        if (path := _path(piece.labels >= label))
    )
    left, right = piece.edges
    letter = max(height, width) * LETTER_SHARE
    edges = "".join(
        f'<text x="{x:.1f}" y="{height / 2:.1f}" font-size="{letter:.1f}" '
        f'text-anchor="{anchor}">{side}</text>'
        for x, anchor, side in ((letter / 4, "start", left), (width - letter / 4, "end", right))
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{piece.caption}">'
        f'<image width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/webp;base64,{data}"/>{paths}{edges}</svg>'
        f"<figcaption>{piece.caption}</figcaption></figure>"
    )


def _path(mask: NDArray[np.bool_]) -> str:
    """SVG: outlines along the voxels' edges, each corner relative to the one before."""
    commands = []
    for corners in outlines(mask):
        (row, column), steps = corners[0], np.diff(corners, axis=0).tolist()
        commands.append(f"M{column} {row}")
        commands += [f"v{down}" if down else f"h{across}" for down, across in steps]
        commands.append("z")
    return "".join(commands)
