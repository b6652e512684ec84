"""What is normal, for the limits in `inference.runner.flags`: what references measure, by percentile.

    python -m benchmarks.flag_limits SOURCE... [--csv FILE]

SOURCE is a folder of reference label maps (any layout that `evaluate` reads; a CT called `imaging.nii.gz`
beside one gives Hounsfield units; label 255 is background), or a report of `python -m inference --report`,
for what only a run knows: the networks' probabilities. No network runs here. The first table shows each
quantity and the share beyond its limits, the second the share of scans that each rule flags.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from benchmarks.names import short_names
from evaluation.evaluate import find_label_maps
from evaluation.scoreboard import markdown_table
from inference.formats.ct import CaseError, read_ct
from inference.geometry import Vector
from inference.method.postprocess import keep_kidneys
from inference.runner.cases import KITS19_IMAGE
from inference.runner.findings import Findings, Kidney, Parts, Tumor, measure, take_apart
from inference.runner.flags import RULES, Facts, find_flags
from training.cache import IGNORE

AIR_HU = -1024
"""Taken for a scan's lowest value where it is not known."""
NO_PARTS = Parts((slice(0, 0),) * 3, np.zeros((0, 0, 0), np.uint8), np.zeros((0, 0, 0), np.uint16))
PERCENTILES = (0, 2, 50, 98, 100)
MOST_NAMES = 5
NUMBERS = {rule.name: rule.numbers for rule in RULES}


@dataclass(frozen=True)
class Quantity:
    """Values of all scans, and the limits that a rule has for them (None: no limit on that side)."""

    name: str
    values: Sequence[float]
    low: float | None = None
    high: float | None = None

    @property
    def outside(self) -> int:
        """How many values lie beyond the limits."""
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        return sum(not low <= value <= high for value in self.values)


def measure_label_map(path: Path) -> Facts | None:
    """What the rules look at, of a reference; None where it holds no kidney.

    Structures of up to 10 cm³ are dropped, as the method drops them. Without a CT beside the label map the
    body's middle is the image's, and Hounsfield units are unknown.
    """
    ct = read_ct(path)
    labels = ct.hu.astype(np.uint8)
    labels[labels == IGNORE] = 0
    boxes = ndimage.find_objects((labels > 0).view(np.uint8))
    if not boxes:
        return None
    inside = labels[boxes[0]]  # a view
    inside[keep_kidneys(inside > 0, float(np.prod(ct.spacing_mm))).ids == 0] = 0
    image = path.with_name(KITS19_IMAGE)
    has_image = image != path and image.is_file()
    ct = read_ct(image) if has_image else replace(ct, hu=np.zeros_like(ct.hu))
    findings = measure(ct, labels, take_apart(labels, ct.spacing_mm))
    if not has_image:
        kidneys = tuple(replace(kidney, hu_mean=None, hu_sd=None) for kidney in findings.kidneys)
        findings = replace(findings, kidneys=kidneys)
    return Facts(findings, ct.spacing_mm, int(ct.hu.min()) if has_image else AIR_HU)


def read_report(path: Path) -> Iterator[tuple[str, Facts]]:
    """What the rules look at, of each case of a report that has a label map, and its name."""
    for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
        if case["status"] not in ("written", "skipped") or case["input"] is None:
            continue  # an earlier run's case without a record has no numbers
        kidneys = tuple(Kidney(**kidney) for kidney in case["kidneys"])
        tumors = tuple(Tumor(**tumor) for tumor in case["tumors"])
        spacing_mm: Vector = tuple(case["input"]["spacing_mm"])
        yield case["name"], Facts(Findings(NO_PARTS, kidneys, tumors), spacing_mm, AIR_HU)


def quantities(scans: Sequence[Facts]) -> list[Quantity]:
    """Everything that a rule has a limit for and that is known of a scan at all."""
    kidneys = [kidney for scan in scans for kidney in scan.findings.kidneys]
    tumors = [tumor for scan in scans for tumor in scan.findings.tumors]
    volume, place, tumor = NUMBERS["kidney-volume"], NUMBERS["kidney-place"], NUMBERS["tumor-volume"]
    hu, confidence = NUMBERS["no-hounsfield"], NUMBERS["low-confidence"]
    found = [
        Quantity("kidney with its tumors, ml", [k.ml + k.tumor_ml for k in kidneys], low=volume["low_ml"]),
        Quantity("kidney without its tumors, ml", [k.ml for k in kidneys], high=volume["high_ml"]),
        Quantity("kidney that has no tumor, ml", [k.ml for k in kidneys if not k.tumor_ml],
                 volume["low_ml"], volume["high_ml"]),
        Quantity("kidney's centre beside the middle, mm", [k.midline_mm for k in kidneys],
                 place["near_mm"], place["far_mm"]),
        Quantity("one kidney above the other, mm", list(_heights_mm(scans)), high=place["height_mm"]),
        Quantity("tumor, ml", [t.ml for t in tumors], tumor["low_ml"], tumor["high_ml"]),
        Quantity("kidney, mean HU", _known(k.hu_mean for k in kidneys), hu["low_hu"], hu["high_hu"]),
        Quantity("kidney, mean probability", _known(k.mean_probability for k in kidneys),
                 confidence["kidney"]),
        Quantity("tumor, mean probability", _known(t.mean_probability for t in tumors),
                 confidence["tumor"]),
        Quantity("share of a tumor in its kidney", _known(t.share_inside_kidney for t in tumors),
                 NUMBERS["tumor-place"]["share"]),
        Quantity("between slices, mm", [scan.spacing_mm[0] for scan in scans],
                 high=NUMBERS["thick-slices"]["most_mm"]),
    ]  # fmt: skip
    return [quantity for quantity in found if quantity.values]


def flagged(scans: Mapping[str, Facts]) -> dict[str, list[str]]:
    """The scans that each rule flags, and those that any rule does."""
    raised = {name: {flag.rule for flag in find_flags(scan)} for name, scan in scans.items()}
    found = {rule.name: [name for name, rules in raised.items() if rule.name in rules] for rule in RULES}
    return {**found, "any of them": [name for name, rules in raised.items() if rules]}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), metavar="FILE",
              help="Write a row for each kidney and each tumor.")  # fmt: skip
def main(sources: tuple[Path, ...], csv_path: Path | None) -> None:
    """Print percentiles of what the flags look at, and the share that their limits flag."""
    found = dict(_read(sources))
    names = short_names(found)
    scans = {names[path]: facts for path, facts in found.items()}
    if not scans:
        raise click.ClickException("no kidney in any of them")
    if csv_path is not None:
        _write(csv_path, scans)
    facts = list(scans.values())
    header = ["", "n", "least", "2 %", "median", "98 %", "most", "limits", "beyond them"]
    click.echo(markdown_table(header, [_row(quantity) for quantity in quantities(facts)]) + "\n")
    rows = [
        [rule, str(len(names)), f"{100 * len(names) / len(facts):.1f} %", " ".join(names[:MOST_NAMES])]
        for rule, names in flagged(scans).items()
    ]
    click.echo(markdown_table(["flag", f"scans of {len(facts)}", "share", f"the first {MOST_NAMES}"], rows))


def _read(sources: Sequence[Path]) -> Iterator[tuple[Path, Facts]]:
    """Each scan's facts, by its source and name."""
    for source in sources:
        if source.is_file():
            yield from ((source / name, facts) for name, facts in read_report(source))
            continue
        try:
            label_maps = find_label_maps(source)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        for name, path in tqdm(label_maps.items(), source.name, unit="scan", disable=None):
            try:
                facts = measure_label_map(path)
            except CaseError as error:
                raise click.ClickException(str(error)) from error
            if facts is not None:
                yield source / name, facts


def _heights_mm(scans: Sequence[Facts]) -> Iterator[float]:
    for scan in scans:
        if len(scan.findings.kidneys) > 1:
            first, second = (kidney.centroid_lps_mm[2] for kidney in scan.findings.kidneys[:2])
            yield abs(first - second)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _row(quantity: Quantity) -> list[str]:
    percentiles = [f"{value:.4g}" for value in np.percentile(quantity.values, PERCENTILES)]
    limits = " to ".join("" if limit is None else f"{limit:g}" for limit in (quantity.low, quantity.high))
    n = len(quantity.values)
    share = f"{quantity.outside} ({100 * quantity.outside / n:.1f} %)"
    return [quantity.name, str(n), *percentiles, limits.strip(), share]


def _write(path: Path, scans: dict[str, Facts]) -> None:
    columns = ("name", "ml", "tumor_ml", "midline_mm", "hu_mean", "mean_probability", "centroid_lps_mm")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["scan", *columns])
        for name, scan in scans.items():
            for part in (*scan.findings.kidneys, *scan.findings.tumors):
                writer.writerow([name, *(getattr(part, column, None) for column in columns)])


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.flag_limits")
