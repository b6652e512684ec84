"""The page of a run: its numbers are the report's, it loads nothing, and a browser can sort it."""

import base64
import csv
import html
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.formats.ct import Ct, NativeGrid
from inference.runner.cases import find_cases
from inference.runner.findings import measure, take_apart
from inference.runner.findings_csv import write_findings
from inference.runner.flags import RULES
from inference.runner.page import Page
from inference.runner.report import CaseReport, write_report
from inference.runner.run import Options, run_cases
from tests.helpers import canonical_affine, save_abdomens, threshold_cascade, truncate

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAX_PAGE_BYTES = 20_000_000
MANY = 200


class Text(HTMLParser):
    """Cells of all tables, by table; links; text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.links: dict[str, str] = {}
        self._open: str | None = None
        self._link: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open = tag if tag in ("td", "th") else self._open
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "a":
            self._link = dict(attributes)["href"]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = None
        elif tag == "a":
            self._link = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.tables[-1][-1][-1] += data
        if self._link:
            self.links[data] = self._link


def make_run(tmp_path: Path, *, names: tuple[str, ...] = ("a", "b", "c")) -> tuple[list[CaseReport], Path]:
    """Some cases, one without a tumor and one that fails, and their page, report and CSV."""
    for i, name in enumerate(names):
        (path,) = save_abdomens(tmp_path / "in" / name, 1, with_tumor=i != 1)
        if i == 2:
            truncate(path)
    page = Page(tmp_path / "page.html")
    cases = run_cases(find_cases(tmp_path / "in"), threshold_cascade(), Options(tmp_path / "out", page=page))
    page.write(cases, {"device": "cpu"})
    write_report(tmp_path / "report.json", cases, {"device": "cpu"})
    write_findings(tmp_path / "findings.csv", cases)
    return cases, tmp_path / "page.html"


def test_every_number_is_the_reports(tmp_path: Path) -> None:
    _, path = make_run(tmp_path)
    text = Text(path.read_text(encoding="utf-8"))
    report = json.loads((tmp_path / "report.json").read_text())["cases"]
    run, *tables, rules = text.tables
    assert [row[:2] for row in run[1:]] == [[case["name"], case["status"]] for case in report]
    for row, case in zip(run[1:], report, strict=True):
        if case["status"] == "failed":
            assert row[2:] == ["–"] * 6 + ["0"]
            continue
        sides = {k["side"]: k["ml"] for k in case["kidneys"]}
        largest = max((t["axial_diameter_mm"] for t in case["tumors"]), default=None)
        volumes = [f"{ml:.2f}" for ml in (case["kidney_ml"], sides["left"], sides["right"], case["tumor_ml"])]
        counts = [str(len(case["tumors"])), "–" if largest is None else f"{largest:.1f}"]
        assert row[2:] == [*volumes, *counts, str(len(case["flags"]) + len(case["warnings"]))]
    shown = [dict(zip(table[0], row, strict=True)) for table in tables for row in table[1:]]
    structures = [s for case in report for s in (*case["kidneys"], *case["tumors"])]
    assert len(shown) == len(structures) == 5
    for row, structure in zip(shown, structures, strict=True):
        assert row["ml"] == f"{structure['ml']:.2f}"
        assert row["HU mean"] == f"{structure['hu_mean']:.1f}"
        assert row["probability"] == f"{structure['mean_probability']:.3f}"
        assert row["centre x, y, z (LPS mm)"] == ", ".join(map(str, structure["centroid_lps_mm"]))
        if "tumor" in row:
            assert row["in slice"] == str(structure["axial_slice_index"])
            assert row["largest extent mm"] == f"{structure['largest_extent_mm']:.1f}"
        else:
            low = row["box from / to (LPS mm)"].partition(" / ")[0]
            assert low == ", ".join(map(str, structure["box_lps_mm"][0]))
    assert [row[0] for row in rules[1:]] == [rule.name for rule in RULES]


def test_flags_warnings_and_errors_are_on_the_page(tmp_path: Path) -> None:
    cases, path = make_run(tmp_path)
    page = path.read_text(encoding="utf-8")
    assert any(case.flags for case in cases)
    for case in cases:
        for flag in case.flags:
            assert html.escape(flag["text"]) in page
        assert case.error is None or html.escape(case.error) in page


def test_its_csvs_are_the_files(tmp_path: Path) -> None:
    _, path = make_run(tmp_path)
    links = Text(path.read_text(encoding="utf-8")).links
    whole = base64.b64decode(links["findings.csv (all cases)"].removeprefix("data:text/csv;base64,")).decode()
    assert whole == (tmp_path / "findings.csv").read_text()
    own = base64.b64decode(links["CSV of this case"].removeprefix("data:text/csv;base64,")).decode()
    assert {row["case"] for row in csv.DictReader(io.StringIO(own))} == {"b/ct_0"}  # the last of them


def test_it_loads_nothing(tmp_path: Path) -> None:
    page = make_run(tmp_path)[1].read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|//[a-z]|@import|<link|<iframe|src=", re.sub(r"base64,[^\"]*", "", page))


def test_three_planes_through_each_structure_with_position_and_window(tmp_path: Path) -> None:
    page = make_run(tmp_path)[1].read_text(encoding="utf-8")
    first = page[page.index('data-case="a/ct_0"') : page.index("<!--pictures-->")]
    titles = re.findall(r"<h3>(.*?)</h3>", first)
    assert [title.partition(":")[0] for title in titles] == [
        "tumor 1 in the left kidney",
        "left kidney",
        "right kidney",
    ]
    groups = first.split("<h3>")[1:]
    for group, axial in zip(groups, (3, 1, 1), strict=True):
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", group)
        planes = [caption.partition(",")[0] for caption in captions]
        assert planes == ["axial"] * axial + ["coronal", "sagittal"]
        assert all(re.search(r"slice \d+ of 0 to \d+, [xyz] -?\d+\.\d mm", caption) for caption in captions)
        assert 'class="k"' in group
    assert 'class="t"' in groups[0]
    assert "-160 to 240 HU" in page
    for data in re.findall(r"image/webp;base64,([^\"]*)", first):
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert min(picture.size) > 100


def test_a_ct_without_a_kidney_is_shown_through_its_middle(tmp_path: Path) -> None:
    hu = np.full((20, 30, 40), -80, np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    ct = Ct(hu, NativeGrid(hu.shape, canonical_affine((3.0, 2.0, 2.0))))
    page = Page(tmp_path / "page.html")
    page.add("a", ct, labels, measure(ct, labels, take_apart(labels, ct.spacing_mm)))
    page.write([CaseReport("a", "a.nii", "a.nii", status="written")], {})
    text = page.path.read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>(.*?),[^,]*</figcaption>", text)
    assert captions == [
        f"{plane}, slice {index} of 0 to {2 * index - 1}"
        for plane, index in (("axial", 10), ("coronal", 15), ("sagittal", 20))
    ]


def test_names_from_files_are_text_and_no_markup(tmp_path: Path) -> None:
    name = '<img src=x onerror=alert(1)>"&'
    _, path = make_run(tmp_path, names=(name,))
    page = path.read_text(encoding="utf-8")
    assert "<img" not in page
    assert Text(page).tables[0][1][0] == f"{name}/ct_0"


def test_pictures_stay_when_a_later_run_passes_over_a_case(tmp_path: Path) -> None:
    _, path = make_run(tmp_path)
    before = re.findall(
        r'<div class="pictures".*?<!--pictures-->', path.read_text(encoding="utf-8"), re.DOTALL
    )
    page = Page(path)
    options = Options(tmp_path / "out", page=page, skip_existing=True)
    cases = run_cases(find_cases(tmp_path / "in"), threshold_cascade(), options)
    page.write(cases, {})
    after = re.findall(
        r'<div class="pictures".*?<!--pictures-->', path.read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(before) == 2
    assert sorted(after) == sorted(before)


def test_pictures_of_an_earlier_result_never_stand_beside_new_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = make_run(tmp_path)
    page = Page(path)

    def broken(*arguments: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("inference.runner.page._pictures", broken)
    cases = run_cases(find_cases(tmp_path / "in"), threshold_cascade(), Options(tmp_path / "out", page=page))
    page.write(cases, {})
    written = [case.warnings for case in cases if case.status == "written"]
    assert written == [["the page's pictures not written (OSError: no room)"]] * 2
    assert 'class="pictures"' not in path.read_text(encoding="utf-8")


def test_a_preview_that_fails_costs_the_page_nothing(tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in", 1)
    (tmp_path / "png" / "ct_0.png").mkdir(parents=True)
    page = Page(tmp_path / "page.html")
    options = Options(tmp_path / "out", page=page, previews=tmp_path / "png")
    page.write(run_cases(find_cases(tmp_path / "in"), threshold_cascade(), options), {})
    assert 'class="pictures"' in page.path.read_text(encoding="utf-8")


def a_large_case() -> tuple[Ct, np.ndarray]:
    """Two kidneys and two tumors as large as KiTS19's, in 0.8 × 0.8 × 3 mm voxels with noise."""
    shape, spacing = (60, 380, 440), (3.0, 0.8, 0.8)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    labels = np.zeros(shape, np.uint8)
    for centre in (130, 310):
        labels[((z - 30) / 19) ** 2 + ((y - 200) / 36) ** 2 + ((x - centre) / 40) ** 2 <= 1] = 1
        labels[((z - 38) / 8) ** 2 + ((y - 180) / 26) ** 2 + ((x - centre - 12) / 26) ** 2 <= 1] = 2
    noise = np.random.default_rng(0).normal(0, 15, shape)
    hu = (np.choose(labels, [-80.0, 130.0, 70.0]) + noise).astype(np.int16)
    return Ct(hu, NativeGrid(shape, canonical_affine(spacing))), labels


def test_200_cases_stay_below_20_mb(tmp_path: Path) -> None:
    ct, labels = a_large_case()
    findings = measure(ct, labels, take_apart(labels, ct.spacing_mm))
    assert (len(findings.kidneys), len(findings.tumors)) == (2, 2)
    page = Page(tmp_path / "page.html")
    page.add("case", ct, labels, findings)
    page.write([CaseReport("case", "/in/case.nii.gz", "case.nii.gz", status="written")], {})
    size = (tmp_path / "page.html").stat().st_size
    assert MANY * size < MAX_PAGE_BYTES


# ------------------------------------------------------------------------------------------- in a browser

CLICKS = """
<script>
const heads = [...document.querySelectorAll("#run thead th")];
const order = () => [...document.querySelectorAll("#run tbody tr")].map(row => row.cells[0].textContent);
const told = {start: order()};
for (const [i, head] of heads.entries()) {
  head.querySelector("button").click();
  told[head.textContent + " up"] = [head.ariaSort, order()];
  head.querySelector("button").click();
  told[head.textContent + " down"] = [head.ariaSort, order()];
}
const box = document.getElementById("outlines");
const shown = () => getComputedStyle(document.querySelector("svg path")).display;
told.outlines = [shown(), (box.click(), shown()), (box.click(), shown())];
const loaded = performance.getEntriesByType("resource").map(entry => entry.name);
told.resources = loaded.filter(name => !name.startsWith("data:"));
told.pictures = document.querySelectorAll("svg image").length;
document.title = "told:" + btoa(unescape(encodeURIComponent(JSON.stringify(told))));
</script>
"""
"""Clicks as a person would, and puts what is then to be seen into the page's title."""


def browse(path: Path, folder: Path, *flags: str) -> str:
    """The page as a browser has it after its scripts ran."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("NO BROWSER (apt-get install chromium): THE PAGE IS NOT TRIED IN ONE")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *flags]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*command, path.as_uri()], capture_output=True, encoding="utf-8", timeout=120, check=True,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    return done.stdout


def test_a_browser_sorts_the_table_on_a_click(tmp_path: Path) -> None:
    cases, path = make_run(tmp_path)
    clicked = tmp_path / "clicked.html"
    page = path.read_text(encoding="utf-8")
    clicked.write_text(page.replace("</body>", f"{CLICKS}</body>"), encoding="utf-8")
    found = re.search(r"<title>told:([^<]*)</title>", browse(clicked, tmp_path, "--dump-dom"))
    assert found is not None
    told = json.loads(base64.b64decode(found[1]))
    names = [case.name for case in cases]
    assert told["start"] == names
    by_tumor = sorted((c for c in cases if c.tumor_ml is not None), key=lambda c: c.tumor_ml or 0)
    missing = [case.name for case in cases if case.tumor_ml is None]  # stays at the end, whichever way
    assert told["tumor ml up"] == ["ascending", [case.name for case in by_tumor] + missing]
    assert told["tumor ml down"] == ["descending", [case.name for case in reversed(by_tumor)] + missing]
    assert told["case up"][1] == sorted(names)
    assert told["case down"][1] == sorted(names, reverse=True)
    assert told["outlines"] == ["inline", "none", "inline"]
    assert told["resources"] == []
    assert told["pictures"] == 5 + 3 * 4


def test_a_browser_takes_a_picture_of_it_and_prints_it(tmp_path: Path) -> None:
    _, path = make_run(tmp_path)
    shots = []
    for scheme in (0, 1):  # Blink's numbers: dark, light
        shot = tmp_path / f"{scheme}.png"
        flags = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1200,900")
        browse(path, tmp_path, *flags, f"--screenshot={shot}")
        with Image.open(shot) as picture:
            shots.append(np.asarray(picture.convert("L"))[-5:, 2:8].mean())
    assert shots[0] < 60 < 200 < shots[1]  # the margin's grey
    browse(path, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
