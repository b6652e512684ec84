"""What a person should look at before using a result: one table of rules, each with its numbers.

A flag is a reason to look, not a verdict. `RULES` is the whole of it; docs/report.md repeats the table, with
the share of references that each rule flags (`python -m benchmarks.flag_limits`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..geometry import Vector
from .findings import CUT_MM, Findings, Kidney


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Attributes:
        findings: of the label map.
        spacing_mm: (z, y, x) of the CT.
        lowest_hu: of the CT.
    """

    findings: Findings
    spacing_mm: Vector
    lowest_hu: int


@dataclass(frozen=True)
class Flag:
    """One rule that holds for one case: the rule's name, and a line for people."""

    rule: str
    text: str


Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: in the report.
        rule: what it says, its numbers in braces.
        numbers: the limits.
        find: (facts, numbers) → a line for each time that the rule holds.
    """

    name: str
    rule: str
    numbers: Numbers
    find: Callable[[Facts, Numbers], Iterator[str]]

    def __str__(self) -> str:
        return self.rule.format(**{name: f"{number:g}" for name, number in self.numbers.items()})


def find_flags(facts: Facts) -> list[Flag]:
    """All flags of a case, in the table's order."""
    return [Flag(rule.name, text) for rule in RULES for text in rule.find(facts, rule.numbers)]


def _nothing_found(facts: Facts, numbers: Numbers) -> Iterator[str]:
    if not facts.findings.kidneys:
        yield "no kidney found: the label map is all background"


def _kidney_cut(facts: Facts, numbers: Numbers) -> Iterator[str]:
    for kidney in facts.findings.kidneys:
        if kidney.cut_by_scan:
            end = " and ".join(kidney.cut_by_scan)
            yield f"{kidney.name} reaches the scan's {end} end: the scan may cut it"


def _region_cut(facts: Facts, numbers: Numbers) -> Iterator[str]:
    for kidney in facts.findings.kidneys:
        if kidney.cut_by_region:
            yield f"{kidney.name} reaches the end of the region that was searched: it may go on beyond it"


def _one_kidney(facts: Facts, numbers: Numbers) -> Iterator[str]:
    if len(facts.findings.kidneys) == 1:
        yield f"only one kidney found, the {facts.findings.kidneys[0].side} one"


def _many_kidneys(facts: Facts, numbers: Numbers) -> Iterator[str]:
    count = len(facts.findings.kidneys)
    if count > numbers["most"]:
        yield f"{count} kidneys found: one may be another organ, or a kidney in two pieces"


def _kidney_volume(facts: Facts, numbers: Numbers) -> Iterator[str]:
    for kidney in facts.findings.kidneys:
        if not numbers["low_ml"] <= kidney.ml + kidney.tumor_ml:
            yield f"{kidney.name} is small for a kidney: {kidney.ml + kidney.tumor_ml:.1f} ml with its tumors"
        elif kidney.ml > numbers["high_ml"]:
            yield f"{kidney.name} is large for a kidney: {kidney.ml:.1f} ml without its tumors"


def _kidney_place(facts: Facts, numbers: Numbers) -> Iterator[str]:
    largest = facts.findings.kidneys[:2]
    for kidney in facts.findings.kidneys:
        if not numbers["near_mm"] <= kidney.midline_mm <= numbers["far_mm"]:
            yield f"{kidney.name} lies {kidney.midline_mm:.0f} mm from the body's middle: it may be no kidney"
    if len(largest) == 2:
        if largest[0].side == largest[1].side:
            yield f"both kidneys lie on the {largest[0].side} side"
        elif (height_mm := _height_mm(*largest)) > numbers["height_mm"]:
            yield f"one kidney lies {height_mm:.0f} mm higher than the other"


def _height_mm(first: Kidney, second: Kidney) -> float:
    return abs(first.centroid_lps_mm[2] - second.centroid_lps_mm[2])


def _tumor_volume(facts: Facts, numbers: Numbers) -> Iterator[str]:
    for tumor in facts.findings.tumors:
        if tumor.ml < numbers["low_ml"]:
            yield f"{tumor.name} in the {tumor.kidney} is small: {tumor.ml:.2f} ml"
        elif tumor.ml > numbers["high_ml"]:
            yield f"{tumor.name} in the {tumor.kidney} is large: {tumor.ml:.0f} ml"


def _tumor_place(facts: Facts, numbers: Numbers) -> Iterator[str]:
    for tumor in facts.findings.tumors:
        share = tumor.share_inside_kidney
        if share is not None and share < numbers["share"]:
            yield f"{tumor.name} lies {100 * (1 - share):.0f} % outside of what was found as {tumor.kidney}"


def _low_confidence(facts: Facts, numbers: Numbers) -> Iterator[str]:
    limits = {"kidney": numbers["kidney"], "tumor": numbers["tumor"]}
    for kind, parts in (("kidney", facts.findings.kidneys), ("tumor", facts.findings.tumors)):
        for part in parts:
            probability = part.mean_probability
            if probability is not None and probability < limits[kind]:
                yield f"low confidence in {part.name}: mean probability {probability:.3f}"


def _no_hounsfield(facts: Facts, numbers: Numbers) -> Iterator[str]:
    if facts.lowest_hu > numbers["air_hu"]:
        yield f"lowest value {facts.lowest_hu}: no air, so perhaps no Hounsfield units"
    for kidney in facts.findings.kidneys:
        mean = kidney.hu_mean
        if mean is not None and not numbers["low_hu"] <= mean <= numbers["high_hu"]:
            yield f"{kidney.name} has {mean:.0f} HU in the mean: no kidney, or no Hounsfield units"


def _thick_slices(facts: Facts, numbers: Numbers) -> Iterator[str]:
    if facts.spacing_mm[0] > numbers["most_mm"]:
        yield f"slices lie {facts.spacing_mm[0]:.1f} mm apart: small tumors may be missed"


RULES: tuple[Rule, ...] = (
    Rule("nothing-found", "no kidney found", {}, _nothing_found),
    Rule(
        "kidney-cut",
        "a kidney ends less than {end_mm} mm from the first or last slice",
        {"end_mm": CUT_MM},
        _kidney_cut,
    ),
    Rule(
        "region-cut",
        "a kidney ends less than {end_mm} mm from the end of the networks' region, and the CT goes on",
        {"end_mm": CUT_MM},
        _region_cut,
    ),
    Rule("one-kidney", "exactly one kidney found", {}, _one_kidney),
    Rule("many-kidneys", "more than {most} kidneys found", {"most": 2}, _many_kidneys),
    # KiTS19's 416 kidneys: 96 to 430 ml but one of 43; the middle 96 % of those without a tumor 114 to 373
    Rule(
        "kidney-volume",
        "a kidney with its tumors has less than {low_ml} ml, or without them more than {high_ml} ml",
        {"low_ml": 70, "high_ml": 400},
        _kidney_volume,
    ),
    # there, 34 to 114 mm beside the image's middle but for one horseshoe kidney; height 50 mm (98 %)
    Rule(
        "kidney-place",
        "a kidney's centre lies less than {near_mm} or more than {far_mm} mm beside the body's middle; the "
        "two largest lie on one side, or one more than {height_mm} mm higher",
        {"near_mm": 30, "far_mm": 115, "height_mm": 60},
        _kidney_place,
    ),
    # KiTS19's 227 tumors: one below, five above
    Rule(
        "tumor-volume",
        "a tumor has less than {low_ml} or more than {high_ml} ml",
        {"low_ml": 0.8, "high_ml": 800},
        _tumor_volume,
    ),
    # three true tumors in real CTs: 0.851 and more
    Rule(
        "tumor-place",
        "less than {share} of a tumor lies where the kidney network found kidney",
        {"share": 0.75},
        _tumor_place,
    ),
    # in real CTs 31 kidneys have 0.933 to 0.993, a rim by 1.4 l of tumor 0.882; three tumors 0.834 and more
    Rule(
        "low-confidence",
        "the mean probability is below {kidney} in a kidney or below {tumor} in a tumor",
        {"kidney": 0.92, "tumor": 0.75},
        _low_confidence,
    ),
    # 32 kidneys of 16 real CTs, plain and with contrast: -1 to 189 HU
    Rule(
        "no-hounsfield",
        "no voxel of the CT is below {air_hu} HU, or a kidney's mean is not from {low_hu} to {high_hu} HU",
        {"air_hu": -500, "low_hu": -20, "high_hu": 300},
        _no_hounsfield,
    ),
    Rule("thick-slices", "slices lie more than {most_mm} mm apart", {"most_mm": 5}, _thick_slices),
)
