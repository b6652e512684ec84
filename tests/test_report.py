"""What a run tells about itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from inference.runner import report as report_module
from inference.runner.cases import find_cases
from inference.runner.flags import RULES
from inference.runner.product import processor, product
from inference.runner.report import SCHEMA_VERSION, CaseReport, merge_reports, read_report, write_report
from inference.runner.run import Options, run_cases
from inference.version import __version__
from tests.helpers import abdomen, files_under, save_abdomens, save_dicom_series, threshold_cascade, truncate

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = jsonschema.Draft202012Validator(
    json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8")),
    format_checker=jsonschema.FormatChecker(),
)


def test_report_holds_run_versions_and_cases(tmp_path: Path) -> None:
    written = CaseReport(
        "a", "/in/a.nii", "a.nii", status="written", kidney_ml=1.5, voxels={"kidney": 3, "tumor": 0}
    )
    failed = CaseReport("b", "/in/b.nii", "b.nii", error="/in/b.nii: broken")
    path = tmp_path / "new" / "report.json"
    write_report(path, [written, failed], {"device": "cpu"})
    content = json.loads(path.read_text())
    SCHEMA.validate(content)
    assert content["schema_version"] == SCHEMA_VERSION
    assert content["run"] == {"device": "cpu"}
    assert set(content["versions"]) == {
        "python",
        "torch",
        "openvino",
        "SimpleITK",
        "pydicom",
        "numpy",
        "scipy",
        "nibabel",
    }
    assert all(version[0].isdigit() for version in content["versions"].values())
    assert [case["name"] for case in content["cases"]] == ["a", "b"]
    assert content["cases"][0]["voxels"] == {"kidney": 3, "tumor": 0}
    assert content["cases"][0]["error"] is None
    assert content["cases"][1]["status"] == "failed"  # until something else is known
    assert content["cases"][1]["kidney_ml"] is None
    assert files_under(path.parent) == ["report.json"]


def test_a_real_runs_report_is_what_the_schema_says(tmp_path: Path) -> None:
    """Written, failed and skipped cases, a file and a DICOM series."""
    save_abdomens(tmp_path / "in", 3)
    truncate(tmp_path / "in" / "ct_1.nii.gz")
    save_dicom_series(tmp_path / "in" / "series", abdomen(), spacing_mm=(5.0, 3.0, 2.5))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ct_2.nii.gz").write_bytes(b"there")
    options = Options(tmp_path / "out", skip_existing=True)
    cases = run_cases(find_cases(tmp_path / "in"), threshold_cascade(), options)
    write_report(tmp_path / "r.json", cases, {"device": "cpu"})
    content = json.loads((tmp_path / "r.json").read_text())
    SCHEMA.validate(content)
    by_name = {case["name"]: case for case in content["cases"]}
    assert {name: case["status"] for name, case in by_name.items()} == {
        "ct_0": "written", "ct_1": "failed", "ct_2": "skipped", "series": "written"
    }  # fmt: skip
    assert by_name["ct_0"]["input"] == {
        "spacing_mm": [5.0, 3.0, 2.5], "shape_vox": [24, 40, 48], "dicom": None
    }  # fmt: skip
    assert by_name["series"]["input"]["dicom"] == {
        "study_instance_uid": "1.2.826.0.1.3680043.2.1125.9",
        "series_instance_uid": "1.2.826.0.1.3680043.2.1125.1",
        "frame_of_reference_uid": "1.2.826.0.1.3680043.2.1125.8",
    }
    for name in ("ct_0", "series"):
        case = by_name[name]
        assert case["kidney_ml"] == pytest.approx(sum(k["ml"] for k in case["kidneys"]), abs=0.02)
        assert case["tumor_ml"] == pytest.approx(sum(t["ml"] for t in case["tumors"]), abs=0.02)
        assert [k["mean_probability"] > 0.75 for k in case["kidneys"]] == [True, True]


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"date": "yesterday"},
        {"more": 1},
        {"cases": [{"name": "a"}]},
    ],
)
def test_the_schema_does_find_an_error(tmp_path: Path, change: dict) -> None:
    write_report(tmp_path / "r.json", [], {})
    content = json.loads((tmp_path / "r.json").read_text()) | change
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate(content)


def test_the_product_names_its_version_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert product()["version"] == __version__
    monkeypatch.setenv("SOURCE_COMMIT", "abc123")
    assert product()["commit"] == "abc123"
    monkeypatch.delenv("SOURCE_COMMIT")
    commit = product()["commit"]
    assert commit is None or len(commit) == 40
    assert processor()


def test_the_documentation_has_every_field_and_rule() -> None:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    definitions = SCHEMA.schema["$defs"]
    for part in (definitions["case"], definitions["kidney"], definitions["tumor"], SCHEMA.schema):
        for field in part["properties"]:
            assert f"`{field}`" in text, field
    for rule in RULES:
        assert f"| `{rule.name}` | {rule} |" in text


def test_an_earlier_report_stays_whole_when_a_new_one_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, [], {"run": 1})
    before = path.read_text()
    with pytest.raises(TypeError):
        write_report(path, [], {"run": object()})
    assert path.read_text() == before
    assert files_under(tmp_path) == ["report.json"]


def test_stages_are_timed_and_added_up_also_when_they_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 20.0, 20.25, 30.0, 31.0])
    monkeypatch.setattr(report_module.time, "perf_counter", lambda: next(clock))
    report = CaseReport("a", "a.nii", "a.nii")
    with report.timed("read"):
        pass
    with report.timed("read"):
        pass
    with pytest.raises(RuntimeError), report.timed("kidney"):
        raise RuntimeError
    assert report.seconds == {"read": 2.75, "kidney": 1.0}


def test_seconds_of_a_stage_follow_from_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 11.0, 13.0, 13.5])
    monkeypatch.setattr(report_module.time, "perf_counter", lambda: next(clock))
    report = CaseReport("a", "a.nii", "a.nii")
    progress = report.timer()
    for stage, share in (("locate", 0.0), ("locate", 0.5), ("roi", 0.0), ("roi", 1.0)):
        progress(stage, share)
    assert report.seconds == {"locate": 3.0, "roi": 0.5}
    assert report.peak_rss_mib.keys() == report.seconds.keys()


def test_peak_memory_is_noted_by_stage_and_never_falls() -> None:
    report = CaseReport("a", "a.nii", "a.nii")
    with report.timed("read"):
        pass
    before = report.peak_rss_mib["read"]
    with report.timed("kidney"):
        taken = bytearray(b"\1" * (before + 64 << 20))
    assert report.peak_rss_mib["kidney"] >= before + 64 > 64
    del taken
    with report.timed("write"):
        pass
    assert report.peak_rss_mib["write"] >= report.peak_rss_mib["kidney"]


def test_peak_memory_is_the_process_own() -> None:
    """A large process starts one that only prints its peak: what the large one has is not counted."""
    ballast = bytearray(400 << 20)
    ballast[:: 1 << 12] = b"1" * len(ballast[:: 1 << 12])
    code = "from inference.runner.report import peak_rss_mib; print(peak_rss_mib())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 10 < int(done.stdout) < 300


def a_case(name: str, **changes: Any) -> CaseReport:
    """A measured case, made by recipe 1."""
    measured: dict[str, Any] = {"status": "written", "kidney_ml": 300.0, "tumor_ml": 7.0, "recipe": {"n": 1}}
    return CaseReport(name, f"/in/{name}", f"{name}.nii", **measured | changes)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    cases = [a_case("a", seconds={"read": 0.5}), CaseReport("b", "/in/b", "b.nii", error="broken")]
    write_report(tmp_path / "r.json", cases, {"device": "cpu"})
    assert read_report(tmp_path / "r.json") == (cases, {"device": "cpu"})
    content = json.loads((tmp_path / "r.json").read_text())
    content["cases"][0]["of_a_later_version"] = 1
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert read_report(tmp_path / "r.json") == (cases, {"device": "cpu"})


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"cases": [1], "run": {}}', '{"cases": [{}], "run": {}}']
)
def test_what_is_no_report_is_told_as_such(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=r"r\.json: is no report of a run"):
        read_report(tmp_path / "r.json")
    with pytest.raises(ValueError, match=r"none\.json: cannot be read"):
        read_report(tmp_path / "none.json")


def test_reports_of_shards_become_one(tmp_path: Path) -> None:
    """Three shards; of a case that two know, the one that measured it counts, then the later one.

    Of two that did not, the one that left an empty map does.
    """
    shards = {
        "0": [a_case("a"), CaseReport("c", "/in/c", "c.nii", status="skipped")],
        "1": [
            a_case("b", tumor_ml=1.0),
            CaseReport("a", "/in/a", "a.nii", error="broken"),
            CaseReport("d", "/in/d", "d.nii", status="background"),
        ],
        "2": [a_case("c"), a_case("b", tumor_ml=2.0), CaseReport("d", "/in/d", "d.nii", error="broken")],
    }
    paths = []
    for shard, cases in shards.items():
        run = {"device": "cpu", "seconds": 1.5, "options": {"shard": f"{shard}/3"}}
        paths.append(tmp_path / f"{shard}.json")
        write_report(paths[-1], cases, run)
    cases, run = merge_reports(paths)
    assert [(case.name, case.status, case.tumor_ml) for case in cases] == [
        ("a", "written", 7.0),
        ("b", "written", 2.0),
        ("c", "written", 7.0),
        ("d", "background", None),
    ]
    assert run["seconds"] == 4.5
    assert run["merged_shards"] == ["0/3", "1/3", "2/3"]


def test_reports_of_other_weights_do_not_merge(tmp_path: Path) -> None:
    for n in (1, 2):
        write_report(tmp_path / f"{n}.json", [a_case(str(n), recipe={"n": n})], {})
    with pytest.raises(ValueError, match="made with different weights or options"):
        merge_reports([tmp_path / "1.json", tmp_path / "2.json"])
