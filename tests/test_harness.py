"""The organiser's harness: ours passes, and each toy with a fault is caught for that fault alone."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evaluation.harness import __main__ as command
from evaluation.harness import checks, engine, toys, trial
from evaluation.harness.checks import Finding, check_outputs, check_run
from evaluation.harness.engine import Contestant, Limits, Run
from evaluation.harness.trial import DataSet, Result, append_rows, as_row, open_data_set, try_container
from inference.formats.ct import read_ct
from inference.runner.cases import Case, UsageError, find_cases
from tests.helpers import (
    ABDOMEN_SPACING_MM,
    abdomen,
    canonical_affine,
    files_under,
    invoke,
    load_nifti,
    save_nifti,
    save_sitk,
    write_weights,
)

CASES = ("ct_0.nii.gz", "ct_1.nii.gz")
SECONDS = 60.0
"""Time enough for any toy, on a busy machine too."""
SHORT_SECONDS = 4.0
LITTLE_MEMORY = "256m"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Two CTs whose kidneys lie near the feet, so that no mirrored label map fits, and their references."""
    root = tmp_path_factory.mktemp("harness")
    hu = abdomen(centre_z_mm=35.0)
    truth = (hu > toys.KIDNEY_HU).astype(np.uint8) + (hu > toys.TUMOR_HU)
    for name in CASES:
        save_nifti(root / "in" / name, hu, canonical_affine(ABDOMEN_SPACING_MM))
        save_nifti(root / "truth" / name, truth.astype(np.uint8), canonical_affine(ABDOMEN_SPACING_MM))
    return open_data_set(root / "in", root / "truth")


# ------------------------------------------------------------------------------------ with a container engine


def toy(image: str, name: str) -> Contestant:
    """A toy container: our image, which has Python and nibabel, with a script of ours as its program."""
    mount = f"{Path(toys.__file__).resolve()}:/toys.py:ro"
    return Contestant(image, ("-v", mount, "--entrypoint", "python"), ("/toys.py", name))


@pytest.mark.parametrize("mode", ["cases", "batch"])
def test_ours_passes(image: str, data: DataSet, tmp_path: Path, mode: str) -> None:
    weights = write_weights(tmp_path / "weights")
    ours = Contestant(image, ("-v", f"{weights}:/opt/ml/model:ro"))
    result = try_container(ours, mode, data, Limits(seconds=SECONDS))  # type: ignore[arg-type]
    assert result.findings == ()
    row = as_row(result)
    assert row.passed
    assert (row.cases, row.image, row.mode, row.reasons) == (2, image, mode, "")
    assert row.kidney > 0.9  # thresholds, but by way of a 4 mm grid
    assert row.tumor > 0.8


def test_the_honest_toy_passes_with_a_perfect_score(image: str, data: DataSet) -> None:
    result = try_container(toy(image, "honest"), "cases", data, Limits(seconds=SECONDS))
    assert result.findings == ()
    assert set(result.scores.values()) == {(1.0, 1.0)}


FAULTS = {
    "writes_nothing": "missing",
    "forgets_a_slice": "shape",
    "moves_the_origin": "affine",
    "stands_on_its_head": "flipped",
    "invents_a_label": "labels",
    "writes_rubbish": "unreadable",
    "leaves_a_file": "leftover",
    "crashes_midway": "crash",
    "writes_into_its_image": "crash",
    "needs_the_network": "network",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_toy_is_caught_for_its_fault_alone(image: str, data: DataSet, name: str) -> None:
    result = try_container(toy(image, name), "batch", data, Limits(seconds=SECONDS))
    assert {finding.reason for finding in result.findings} == {FAULTS[name]}, result.findings
    assert not as_row(result).passed


def leftovers() -> list[str]:
    """State of each container of the harness that is there; an engine may list one that is gone."""
    until, found = time.monotonic() + SECONDS, ["not asked yet"]
    while found and time.monotonic() < until:
        listing = [engine.DOCKER, "ps", "--all", "--quiet", "--filter", "name=harness-"]
        listed = subprocess.run(listing, capture_output=True, check=True, encoding="utf-8").stdout.split()
        form = "{{.Name}} {{.Created}} {{json .State}} {{json .Args}}"
        asked = [
            subprocess.run(
                [engine.DOCKER, "inspect", "--format", form, one],
                capture_output=True,
                check=False,
                encoding="utf-8",
            )
            for one in listed
        ]
        found = [done.stdout for done in asked if done.returncode == 0]
        time.sleep(0.2)
    return found


def test_a_toy_that_runs_too_long_is_stopped(image: str, data: DataSet) -> None:
    result = try_container(toy(image, "runs_too_long"), "cases", data, Limits(seconds=SHORT_SECONDS))
    assert {finding.reason for finding in result.findings} == {"time"}
    assert result.seconds < 2 * SECONDS
    assert leftovers() == []


def test_a_container_is_gone_when_a_list_that_works_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = iter([(1, ""), (0, "8abb1c0dde4e\n"), (0, "")])
    asked: list[str] = []

    def answer(*arguments: str) -> subprocess.CompletedProcess[str]:
        asked.append(arguments[0])
        code, text = next(lists) if arguments[0] == "ps" else (0, "")
        return subprocess.CompletedProcess(arguments, code, text)

    monkeypatch.setattr(engine, "_engine", answer)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    engine._remove("harness-1", ended)
    assert asked == ["ps", "rm", "ps", "rm", "ps"]


def test_a_container_ends_before_it_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def answer(*arguments: str) -> subprocess.CompletedProcess[str]:
        asked.append(arguments[0])
        if asked == ["kill", "kill"]:  # the first came before it was started
            running.kill()
        return subprocess.CompletedProcess(arguments, 0, "8abb1c0dde4e" if asked.count("ps") == 1 else "")

    monkeypatch.setattr(engine, "_engine", answer)
    engine._remove("harness-1", running)
    assert asked == ["kill", "kill", "ps", "rm", "ps"]


def test_a_toy_that_eats_memory_is_killed(image: str, data: DataSet) -> None:
    limits = Limits(seconds=SECONDS, memory=LITTLE_MEMORY)
    result = try_container(toy(image, "eats_memory"), "batch", data, limits)
    assert {finding.reason for finding in result.findings} == {"memory"}, result.findings


@pytest.fixture
def root_folder(image: str, tmp_path: Path) -> Iterator[Path]:
    """What a participant hands in: a Dockerfile, whose image is the honest toy's and runs as root."""
    folder = tmp_path / "AsRoot"
    folder.mkdir()
    (folder / "toys.py").write_bytes(Path(toys.__file__).read_bytes())
    (folder / "Dockerfile").write_text(
        f'FROM {image}\nUSER 0:0\nCOPY toys.py /toys.py\nENTRYPOINT ["python", "/toys.py", "honest"]\n'
    )
    yield folder
    subprocess.run([engine.DOCKER, "image", "rm", "harness-asroot"], capture_output=True, check=False)


def test_an_image_that_writes_as_root_is_caught_where_nobody_forbids_it(
    root_folder: Path, data: DataSet
) -> None:
    contestant = Contestant(engine.find_or_build(str(root_folder)))
    result = try_container(contestant, "batch", data, Limits(seconds=SECONDS, user=None))
    assert {finding.reason for finding in result.findings} == {"root"}, result.findings


def test_the_command_builds_prints_the_leaderboard_and_writes_it(
    root_folder: Path, data: DataSet, tmp_path: Path
) -> None:
    board = tmp_path / "board.csv"
    arguments = [root_folder, "--input", data.root, "--truth", data.truth, "--board", board]
    done = subprocess.run(
        [sys.executable, "-m", "evaluation.harness", *map(str, arguments)],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split()[:3] == ["image", "mode", "passed"]
    assert {tuple(line.split()[:4]) for line in lines} == {
        ("harness-asroot", mode, "yes", "1.000") for mode in ("cases", "batch")
    }
    rows = list(csv.DictReader(board.open()))
    assert [(row["image"], row["passed"], row["cases"]) for row in rows] == [
        ("harness-asroot", "True", "2")
    ] * 2


def test_an_image_that_is_not_there_is_wrong_usage(image: str, data: DataSet) -> None:
    result = invoke(command.main, "no-such-image", "--input", data.root, "--truth", data.truth)
    assert result.exit_code == 2
    assert "no-such-image: no such image" in result.stderr


# ------------------------------------------------------------------------------------------------ without one


def play(name: str, data: DataSet, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy in this process."""
    output.mkdir()
    monkeypatch.setattr(toys, "INPUT", data.root)
    monkeypatch.setattr(toys, "OUTPUT", output)
    for path in sorted(data.root.iterdir()):
        toys.TOYS[name](path)


HERE = {
    name: reason
    for name, reason in FAULTS.items()
    if reason in ("missing", "shape", "affine", "flipped", "labels", "unreadable", "leftover")
} | {"links_out": "unreadable"}


@pytest.fixture
def _is_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests write belongs to whoever runs them, root perhaps."""
    monkeypatch.setattr(checks, "ROOT_UID", -1)


@pytest.mark.usefixtures("_is_not_root")
@pytest.mark.parametrize("name", HERE)
def test_outputs_with_a_fault_are_caught_for_it_alone(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    play(name, data, tmp_path / "out", monkeypatch)
    findings, scores = check_outputs(data.cases, tmp_path / "out", data.truth, is_run_whole=True)
    assert [finding.reason for finding in findings] == [HERE[name]] * 2
    is_usable = HERE[name] in ("flipped", "leftover")
    assert is_usable or set(scores.values()) == {(0.0, 0.0)}


@pytest.mark.usefixtures("_is_not_root")
def test_good_outputs_have_no_findings_and_score_1(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play("honest", data, tmp_path / "out", monkeypatch)
    findings, scores = check_outputs(data.cases, tmp_path / "out", data.truth, is_run_whole=True)
    assert findings == []
    assert scores == {"ct_0": (1.0, 1.0), "ct_1": (1.0, 1.0)}


def test_files_of_root_are_caught(data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play("honest", data, tmp_path / "out", monkeypatch)
    monkeypatch.setattr(checks, "ROOT_UID", (tmp_path / "out").stat().st_uid)
    findings, _ = check_outputs(data.cases, tmp_path / "out", data.truth, is_run_whole=True)
    assert [finding.reason for finding in findings] == ["root", "root"]


@pytest.mark.usefixtures("_is_not_root")
@pytest.mark.parametrize(
    ("first", "axes", "is_flipped"),
    [(6, (), False), (7, (), True), (0, (2,), True), (0, (1, 2), True), (0, (0, 1, 2), True)],
)
def test_a_label_map_that_fits_much_better_mirrored_is_flipped(
    tmp_path: Path, first: int, axes: tuple[int, ...], is_flipped: bool
) -> None:
    """Ten voxels along x: moved by six they overlap by 4, mirrored by 6; by seven, by 3 and 7."""
    truth = np.zeros((8, 8, 20), np.uint8)
    truth[:4, :4, :10] = 1
    predicted = np.flip(np.roll(truth, first, axis=2), axes)
    for folder, labels in (("truth", truth), ("out", predicted)):
        save_nifti(tmp_path / folder / "ward" / "a.nii", labels, np.eye(4))
    case = Case("a", tmp_path / "a.nii", Path("ward", "a.nii"))
    findings, _ = check_outputs([case], tmp_path / "out", tmp_path / "truth", is_run_whole=True)
    assert [finding.reason for finding in findings] == (["flipped"] if is_flipped else [])


@pytest.mark.usefixtures("_is_not_root")
def test_values_between_labels_are_no_labels(data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for case in data.cases:
        labels = np.asarray(load_nifti(data.truth / case.output).dataobj, dtype=np.float32)
        save_nifti(tmp_path / "out" / case.output, labels / 2, canonical_affine(ABDOMEN_SPACING_MM))
    findings, _ = check_outputs(data.cases, tmp_path / "out", data.truth, is_run_whole=True)
    assert [finding.reason for finding in findings] == ["labels", "labels"]
    assert "[0.5]" in findings[0].text


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (Run(0, 1.0, False, "all is well"), None),
        (Run(None, 9.0, False, ""), "time"),
        (Run(137, 1.0, True, ""), "memory"),
        (Run(139, 1.0, False, "Segmentation fault"), "crash"),
        (Run(1, 1.0, False, "urlopen error [Errno -3] Temporary failure in name resolution"), "network"),
        (Run(1, 1.0, False, "OSError: [Errno 101] Network is unreachable"), "network"),
        (Run(1, 1.0, False, ""), "crash"),
    ],
)
def test_how_a_run_ended_has_one_reason(run: Run, reason: str | None) -> None:
    assert [finding.reason for finding in check_run(run, 9.0)] == ([reason] if reason else [])


@pytest.mark.usefixtures("_is_not_root")
def test_what_a_failed_run_did_not_write_is_no_second_finding_but_counts_0(
    data: DataSet, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CASES[0]).write_bytes((data.truth / CASES[0]).read_bytes())
    findings, scores = check_outputs(data.cases, tmp_path / "out", data.truth, is_run_whole=False)
    assert findings == []
    result = Result(Contestant("x"), "batch", (Finding("crash", ""),), scores, 1.0)
    row = as_row(result)
    assert (row.passed, row.kidney, row.tumor, row.mean, row.reasons) == (False, 0.5, 0.5, 0.5, "crash")


@pytest.mark.parametrize("name", ["board.csv", "new/board.json"])
def test_a_leaderboard_grows(tmp_path: Path, name: str) -> None:
    board = tmp_path / name
    results = [Result(Contestant(image), "cases", (), {"a": (1.0, 0.5)}, 2.0) for image in ("x", "y")]
    append_rows(board, [])
    for result in results:
        append_rows(board, [as_row(result)])
    rows = json.loads(board.read_text()) if name.endswith("json") else list(csv.DictReader(board.open()))
    assert [row["image"] for row in rows] == ["x", "y"]
    assert float(rows[0]["mean"]) == 0.75


@pytest.mark.parametrize("name", ["board.csv", "board.json"])
def test_a_leaderboard_is_sorted_and_keeps_digests_and_the_scores_of_cases(tmp_path: Path, name: str) -> None:
    board = tmp_path / name
    fault = Finding("affine", "a: differs")
    for image, findings, tumor in (
        ("good", (), 0.5),
        ("best", (), 0.9),
        ("faulty", (fault,), 1.0),
        ("poor", (), 0.1),
    ):
        scores = {"a": (1.0, tumor), "b": (0.5, tumor)}
        result = Result(Contestant(image), "cases", findings, scores, 2.0, digest=f"sha256:{image}")
        append_rows(board, [as_row(result)])
    if name.endswith("json"):
        rows = json.loads(board.read_text())
    else:
        rows = list(csv.DictReader(board.open()))
        for row in rows:
            row["scores"] = json.loads(row["scores"])
    assert [row["image"] for row in rows] == ["best", "good", "poor", "faulty"]
    assert [row["digest"] for row in rows] == ["sha256:best", "sha256:good", "sha256:poor", "sha256:faulty"]
    assert rows[1]["scores"] == {"a": {"kidney": 1.0, "tumor": 0.5}, "b": {"kidney": 0.5, "tumor": 0.5}}
    assert files_under(tmp_path) == [name]


def test_a_board_of_an_earlier_version_grows_too(tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    board.write_text(
        "date,image,mode,passed,cases,kidney,tumor,mean,seconds,reasons\n"
        "2026-01-01T00:00:00+00:00,old,batch,True,2,0.9,0.3,0.6,12.5,\n"
    )
    append_rows(board, [as_row(Result(Contestant("new"), "cases", (), {"a": (1.0, 1.0)}, 1.0, "sha256:1"))])
    rows = list(csv.DictReader(board.open()))
    assert [(row["image"], row["digest"], row["mean"]) for row in rows] == [
        ("new", "sha256:1", "1.0"), ("old", "", "0.6")
    ]  # fmt: skip


def test_progress_is_told_and_the_digest_is_the_engines(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a container that writes nothing, and no engine."""
    limits: list[float] = []

    def run_container(
        contestant: Contestant, source: Path, output: Path, rules: Limits, *, seconds: float
    ) -> Run:
        limits.append(seconds)
        assert output.stat().st_mode & 0o777 == 0o777  # whoever the container's user is may write there
        return Run(exit_code, 1.0, False, "")

    exit_code = 0
    monkeypatch.setattr(trial, "run_container", run_container)
    monkeypatch.setattr(trial, "digest_of", lambda image: f"sha256:{image}")
    for mode, expected in (("cases", [1, 1]), ("batch", [2])):
        told: list[int] = []
        result = try_container(
            Contestant("x"), mode, data, Limits(), progress=told.append  # type: ignore[arg-type]
        )  # fmt: skip
        assert told == expected
        assert as_row(result).digest == "sha256:x"
        assert {finding.reason for finding in result.findings} == {"missing"}
    assert limits == [Limits.seconds, Limits.seconds, 2 * Limits.seconds]
    exit_code = 1  # nothing is missing then: the crash is the cause
    assert as_row(try_container(Contestant("x"), "cases", data, Limits())).reasons == "crash"


def test_grand_challenges_list_of_sockets_is_staged_with_its_case(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save_sitk(root / "images" / "ct" / "a.mha", np.ones((3, 4, 5), np.uint8))
    (root / "inputs.json").write_text('[{"socket": {"relative_path": "images/ct"}}]')
    (case,) = find_cases(root)
    trial._stage(case, root, tmp_path / "staged")
    assert files_under(tmp_path / "staged") == files_under(root)


def test_a_leaderboard_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "board.json").write_text("{")
    for board in (tmp_path / "board.json", tmp_path):
        with pytest.raises(UsageError, match="no leaderboard"):
            append_rows(board, [])


def test_a_case_without_a_reference_is_wrong_usage(data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ct_0\.nii\.gz: no such reference"):
        open_data_set(data.root, tmp_path)


@pytest.mark.parametrize("name", ["ct.mhd", "ct.nhdr"])
@pytest.mark.parametrize("voxels", ["usual", "other.bin"])
def test_voxels_beside_a_header_go_with_it(tmp_path: Path, name: str, voxels: str) -> None:
    root, target = tmp_path / "in", tmp_path / "staged"
    header = save_sitk(root / "set" / name, np.ones((3, 4, 5), np.uint8))
    if voxels != "usual":
        rename_voxels(header, voxels)
    save_sitk(tmp_path / "truth" / "set" / name, np.ones((3, 4, 5), np.uint8))
    (case,) = open_data_set(root, tmp_path / "truth").cases
    trial._stage(case, root, target)
    assert files_under(target) == files_under(root)
    assert read_ct(target / "set" / name).hu.shape == (3, 4, 5)


def rename_voxels(header: Path, name: str) -> None:
    (old,) = (path for path in header.parent.iterdir() if path != header)
    header.write_bytes(header.read_bytes().replace(old.name.encode(), name.encode()))
    old.rename(old.with_name(name))


def test_links_are_staged_as_what_they_lead_to(data: DataSet, tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "series").mkdir(parents=True)
    for link in (root / CASES[0], root / "series" / "slice"):
        link.symlink_to(data.root / CASES[0])
    (root / "series" / "broken").symlink_to(tmp_path / "absent")
    for source in (root / CASES[0], root / "series"):
        trial._stage(Case("a", source, Path("a.nii.gz")), root, tmp_path / "staged")
    staged = [path for path in (tmp_path / "staged").rglob("*") if not path.is_dir()]
    assert {path.name for path in staged} == {CASES[0], "slice"}
    assert not any(path.is_symlink() for path in staged)


@pytest.mark.usefixtures("_is_not_root")
@pytest.mark.parametrize("name", ["ct.mhd", "ct.nhdr"])
@pytest.mark.parametrize("voxels", ["usual", "other.bin"])
def test_voxels_beside_a_label_map_are_no_leftover(tmp_path: Path, name: str, voxels: str) -> None:
    labels = np.ones((3, 4, 5), np.uint8)
    save_sitk(tmp_path / "truth" / name, labels)
    header = save_sitk(tmp_path / "out" / name, labels)
    if voxels != "usual":
        rename_voxels(header, voxels)
    case = Case("ct", Path(name), Path(name))
    findings, scores = check_outputs([case], tmp_path / "out", tmp_path / "truth", is_run_whole=True)
    assert findings == []
    assert scores == {"ct": (1.0, 1.0)}


@pytest.mark.usefixtures("_is_not_root")
@pytest.mark.parametrize("way", ["link", "header"])
def test_voxels_from_elsewhere_are_no_label_map(tmp_path: Path, way: str) -> None:
    """Those of the reference, say."""
    labels = np.ones((3, 4, 5), np.uint8)
    truth = save_sitk(tmp_path / "truth" / "ct.mhd", labels)
    voxels = next(path for path in truth.parent.iterdir() if path != truth)
    (tmp_path / "out").mkdir()
    header = truth.read_bytes()
    if way == "link":
        (tmp_path / "out" / voxels.name).symlink_to(voxels)
    else:
        header = header.replace(voxels.name.encode(), str(voxels).encode())
    (tmp_path / "out" / "ct.mhd").write_bytes(header)
    case = Case("ct", Path("ct.mhd"), Path("ct.mhd"))
    findings, scores = check_outputs([case], tmp_path / "out", tmp_path / "truth", is_run_whole=True)
    assert [finding.reason for finding in findings] == ["unreadable"]
    assert scores == {"ct": (0.0, 0.0)}


@pytest.mark.usefixtures("_is_not_root")
def test_nobody_waits_for_a_pipe(tmp_path: Path) -> None:
    labels = np.ones((3, 4, 5), np.uint8)
    for name in ("a.mhd", "b.mhd"):
        save_sitk(tmp_path / "truth" / name, labels)
        save_sitk(tmp_path / "out" / name, labels)
    cases = [Case(name, Path(f"{name}.mhd"), Path(f"{name}.mhd")) for name in "ab"]
    for pipe in ("a.mhd", "b.raw"):
        (tmp_path / "out" / pipe).unlink()
        os.mkfifo(tmp_path / "out" / pipe)
    findings, _ = check_outputs(cases, tmp_path / "out", tmp_path / "truth", is_run_whole=True)
    assert [finding.reason for finding in findings] == ["missing", "unreadable"]


def test_a_data_set_that_cannot_be_read_is_wrong_usage(data: DataSet, tmp_path: Path) -> None:
    for name in CASES:
        (tmp_path / name).write_bytes(b"rubbish")
    with pytest.raises(UsageError, match=r"ct_0\.nii\.gz: this reference cannot be read"):
        open_data_set(data.root, tmp_path)
    with pytest.raises(UsageError, match="this reference cannot be read"):
        check_outputs(data.cases, data.truth, tmp_path, is_run_whole=True)


def test_without_an_engine_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "is_available", lambda: False)
    result = invoke(command.main, "some-image")
    assert result.exit_code == 2
    assert "no container engine answers" in result.stderr


def test_the_samples_are_the_default_data_set() -> None:
    data = open_data_set(command.SAMPLES / "input", command.SAMPLES / "reference")
    assert len(data.cases) == len(find_cases(command.SAMPLES / "input")) >= 3
