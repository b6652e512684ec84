"""Which CTs are found under a folder, and what their label maps are called."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from inference.runner.cases import NAMINGS, Case, Naming, UsageError, find_cases
from tests.helpers import abdomen, save_dicom_series

DICOM_HEAD = bytes(128) + b"DICM"


def make(root: Path, names: Iterable[str]) -> Path:
    """Files of these names; DICOM by its magic where the name ends in .dcm or is DICOMDIR."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DICOM_HEAD if name.endswith((".dcm", "DICOMDIR")) else b"x")
    return root


def outputs(cases: list[Case], root: Path) -> dict[str, str]:
    """Source → output, both relative."""
    return {case.source.relative_to(root).as_posix(): case.output.as_posix() for case in cases}


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("case_00210/imaging.nii.gz", "prediction_00210.nii.gz"),  # KiTS19
        ("deep/er/case_00210/imaging.nii.gz", "prediction_00210.nii.gz"),
        ("patient7/imaging.nii.gz", "prediction_patient7.nii.gz"),
        ("case_00210.nii.gz", "case_00210.nii.gz"),  # KiTS21, KiTS23
        ("anything.nii", "anything.nii"),
        ("scan.mha", "scan.mha"),
        ("scan.mhd", "scan.mhd"),
        ("scan.nrrd", "scan.nrrd"),
        ("ward/a.b.c.nii.gz", "ward/a.b.c.nii.gz"),
        ("case_00210_0000.nii.gz", "case_00210.nii.gz"),  # nnU-Net
        ("imagesTs/case_00210_0000.nii.gz", "case_00210.nii.gz"),
        ("imagesTs/case_00210_0000.mha", "case_00210.mha"),
        ("images/ct/1b2c.mha", "images/kidney-tumor-segmentation/1b2c.mha"),  # Grand Challenge
        ("images/ward/ct/1b2c.mha", "images/ward/ct/1b2c.mha"),
        ("labelsTr/a.nii.gz", "labelsTr/a.nii.gz"),  # beside no images
    ],
)
def test_layouts_and_their_names(tmp_path: Path, source: str, output: str) -> None:
    assert outputs(find_cases(make(tmp_path, [source])), tmp_path) == {source: output}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/p_0000.nii.gz", "a/p_0001.nii.gz"], ["a/p_0000.nii.gz", "a/p_0001.nii.gz"]),
        (["p_0000.mha", "q_0003.mha"], ["p_0000.mha", "q_0003.mha"]),
        (["a/p_0000.nii", "b/p_0001.nii"], ["a/p.nii", "b/p_0001.nii"]),  # folders are apart
        (["a/p_0000.nii", "a/q_0000.nii"], ["a/p.nii", "a/q.nii"]),
        (["x/imagesTr/p_0000.nii.gz"], ["x/p.nii.gz"]),
        (["p_00000.nii"], ["p_00000.nii"]),
        (["P_0000.NII.GZ"], ["P.nii.gz"]),
    ],
)
def test_siblings_tell_numbers_from_channels(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    assert sorted(outputs(find_cases(make(tmp_path, names)), tmp_path).values()) == expected


def test_numbers_stay_in_a_forced_naming_and_for_a_single_file(tmp_path: Path) -> None:
    root = make(tmp_path, ["p_0000.nii.gz", "p_0001.nii.gz"])
    found = outputs(find_cases(root, naming="nnunet"), root)
    assert found == {"p_0000.nii.gz": "p_0000.nii.gz", "p_0001.nii.gz": "p_0001.nii.gz"}
    assert find_cases(root / "p_0000.nii.gz")[0].output == Path("p_0000.nii.gz")


def test_label_maps_that_belong_to_cts_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [
        "k/case_1/imaging.nii.gz",
        "k/case_1/segmentation.nii.gz",
        "k/case_1/instances/kidney_instance-1_annotation-1.nii.gz",
        "k/case_1/derived/of_a_reader/a.nii.gz",
        "t/s1/ct.nii.gz",
        "t/s1/segmentations/liver.nii.gz",
        "n/imagesTr/a_0000.nii.gz",
        "n/labelsTr/a.nii.gz",
    ]
    assert outputs(find_cases(make(tmp_path, names)), tmp_path) == {
        "k/case_1/imaging.nii.gz": "prediction_1.nii.gz",
        "n/imagesTr/a_0000.nii.gz": "n/a.nii.gz",
        "t/s1/ct.nii.gz": "t/s1/ct.nii.gz",
    }
    (line,) = caplog.messages
    assert str(tmp_path / "t/s1/segmentations") in line
    assert str(tmp_path / "n/labelsTr") in line
    assert line.endswith("label maps that belong to the CTs beside them")


def test_what_looks_like_a_ct_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = ["a.hdr", "a.img", "b.nii.bz2", "c.zip", "d.mgz", "e.nii.gz.zip"]
    root = make(tmp_path, [*odd, "good.nii", "notes.txt", "p.png", "q.json", "r.raw"])
    assert outputs(find_cases(root), root) == {"good.nii": "good.nii"}
    (line,) = caplog.messages
    assert all(str(root / name) in line for name in odd)
    assert "Unpack it, or convert it to NIfTI" in line
    (root / "good.nii").unlink()
    with pytest.raises(UsageError, match=r"no CT found .*passed over: .*a\.hdr"):
        find_cases(root)


FORCED = {
    "kits19": {
        "case_00210/imaging.nii.gz": "prediction_00210.nii.gz",
        "case_00211.nii.gz": "prediction_00211.nii.gz",
        "case_00212_0000.nii.gz": "prediction_00212.nii.gz",
        "images/ct/1b2c.mha": "prediction_1b2c.nii.gz",
        "series": "prediction_series.nii.gz",
    },
    "same": {
        "case_00210/imaging.nii.gz": "case_00210/imaging.nii.gz",
        "case_00211.nii.gz": "case_00211.nii.gz",
        "case_00212_0000.nii.gz": "case_00212_0000.nii.gz",
        "images/ct/1b2c.mha": "images/ct/1b2c.mha",
        "series": "series.nii.gz",
    },
    "nnunet": {
        "case_00210/imaging.nii.gz": "case_00210.nii.gz",
        "case_00211.nii.gz": "case_00211.nii.gz",
        "case_00212_0000.nii.gz": "case_00212.nii.gz",
        "images/ct/1b2c.mha": "1b2c.mha",
        "series": "series.nii.gz",
    },
    "grand-challenge": {
        "case_00210/imaging.nii.gz": "images/kidney-tumor-segmentation/case_00210.mha",
        "case_00211.nii.gz": "images/kidney-tumor-segmentation/case_00211.mha",
        "case_00212_0000.nii.gz": "images/kidney-tumor-segmentation/case_00212_0000.mha",
        "images/ct/1b2c.mha": "images/kidney-tumor-segmentation/1b2c.mha",
        "series": "images/kidney-tumor-segmentation/series.mha",
    },
}


@pytest.mark.parametrize("naming", FORCED)
def test_forced_naming_holds_for_every_layout(tmp_path: Path, naming: Naming) -> None:
    names = [name if "." in name else f"{name}/1.dcm" for name in FORCED[naming]]
    assert outputs(find_cases(make(tmp_path, names), naming=naming), tmp_path) == FORCED[naming]


def test_every_naming_is_tested() -> None:
    assert set(FORCED) | {"auto"} == set(NAMINGS)


def test_dicom_folder_is_one_case(tmp_path: Path) -> None:
    root = make(
        tmp_path, ["patients/ann/1.dcm", "patients/ann/2.dcm", "patients/ann/README", "patients/bob/x.dcm"]
    )
    assert outputs(find_cases(root), root) == {
        "patients/ann": "patients/ann.nii.gz",
        "patients/bob": "patients/bob.nii.gz",
    }


def test_a_series_folder_keeps_its_name_even_where_it_looks_like_nnunet(tmp_path: Path) -> None:
    root = make(tmp_path, ["ann_0000/1.dcm", "other/1.dcm"])
    assert outputs(find_cases(root), root)["ann_0000"] == "ann_0000.nii.gz"


def test_dicom_is_known_by_its_magic_not_its_name(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM0001").write_bytes(DICOM_HEAD)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "not.dcm.txt").write_bytes(b"DICM" + bytes(400))
    assert outputs(find_cases(tmp_path), tmp_path) == {"series": "series.nii.gz"}


def test_a_series_in_several_folders_is_warned_of(tmp_path: Path) -> None:
    """As archives export it that spread files over folders; a copy or a phase lies at the same places."""
    hu, other = abdomen(), "1.2.3"
    save_dicom_series(tmp_path / "a", hu[:3], z_mm=[0.0, 5.0, 10.0])
    save_dicom_series(tmp_path / "b", hu[:3], z_mm=[15.0, 20.0, 25.0])
    save_dicom_series(tmp_path / "c", hu[:2], z_mm=[15.0, 20.0])
    save_dicom_series(tmp_path / "d", hu[:2], z_mm=[30.0, 35.0], series_uid=other)
    save_dicom_series(tmp_path / "e" / "one", hu[:1], z_mm=[40.0], series_uid=other)
    told = {case.name: "; ".join(case.warnings) for case in find_cases(tmp_path)}
    text = (
        "further slices of its DICOM series lie in {}, and each folder is taken for a CT of its own. Put all "
    )
    text += "slices of a series in one folder"
    assert told == {
        "a": text.format(f"{tmp_path}/b, {tmp_path}/c"),
        "b": text.format(f"{tmp_path}/a"),
        "c": text.format(f"{tmp_path}/a"),
        "d": text.format(f"{tmp_path}/e/one"),
        "e/one": text.format(f"{tmp_path}/d"),
    }


def test_a_mediums_table_of_contents_is_no_series(tmp_path: Path) -> None:
    root = make(tmp_path, ["DICOMDIR", "DICOM/S1/1.dcm"])
    assert outputs(find_cases(root), root) == {"DICOM/S1": "DICOM/S1.nii.gz"}


def test_input_folder_that_is_itself_a_series_or_a_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a relative path, in which the folder's own name does not occur."""
    series, kits = make(tmp_path / "ann", ["1.dcm"]), make(tmp_path / "case_00007", ["imaging.nii.gz"])
    for root, output in ((series, "ann.nii.gz"), (kits, "prediction_00007.nii.gz")):
        assert [case.output.as_posix() for case in find_cases(root)] == [output]
        monkeypatch.chdir(root)
        assert [case.output.as_posix() for case in find_cases(Path())] == [output]
    assert find_cases(Path("imaging.nii.gz"))[0].output == Path("prediction_00007.nii.gz")


def test_single_file(tmp_path: Path) -> None:
    root = make(tmp_path, ["a.nii.gz", "b.nii.gz", "case_00003/imaging.nii.gz", "readme.txt"])
    assert find_cases(root / "b.nii.gz") == [Case("b", root / "b.nii.gz", Path("b.nii.gz"))]
    kits = root / "case_00003" / "imaging.nii.gz"
    assert find_cases(kits) == [Case("prediction_00003", kits, Path("prediction_00003.nii.gz"))]
    with pytest.raises(UsageError, match=r"readme\.txt: no CT found"):
        find_cases(root / "readme.txt")


def test_a_single_file_may_lie_in_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    root = make(tmp_path, ["a_0000.nii.gz", "a_0001.nii.gz"])
    monkeypatch.setattr(Path, "iterdir", denied)
    assert [case.output for case in find_cases(root / "a_0000.nii.gz")] == [Path("a.nii.gz")]
    with pytest.raises(UsageError, match=r"cannot be listed \(Permission denied\)"):
        find_cases(root)


def test_folders_that_are_written_to_hold_no_inputs_but_the_input_itself_does(tmp_path: Path) -> None:
    root = make(tmp_path, ["a.nii.gz", "out/a.nii.gz"])
    assert outputs(find_cases(root, outputs=[root, root / "out"]), root) == {"a.nii.gz": "a.nii.gz"}


def test_reference_label_map_beside_a_kits19_image_is_no_input(tmp_path: Path) -> None:
    root = make(tmp_path, ["case_1/imaging.nii.gz", "case_1/segmentation.nii.gz", "case_1/extra.mha"])
    assert outputs(find_cases(root), root) == {"case_1/imaging.nii.gz": "prediction_1.nii.gz"}


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    root = make(tmp_path, [".a.nii.gz", ".partial-x/b.nii.gz", "._case.nii.gz", "dicom/.1.dcm", "c.nii.gz"])
    assert outputs(find_cases(root), root) == {"c.nii.gz": "c.nii.gz"}


def test_cases_come_sorted_and_with_names_of_their_own(tmp_path: Path) -> None:
    root = make(tmp_path, ["b/ct.nii.gz", "a/ct.mha", "a/ct.nii.gz", "c.nii", "a/z.nrrd"])
    cases = find_cases(root)
    assert [case.source.relative_to(root).as_posix() for case in cases] == [
        "c.nii",
        "a/ct.mha",
        "a/ct.nii.gz",
        "a/z.nrrd",
        "b/ct.nii.gz",
    ]
    assert [case.name for case in cases] == ["c", "a/ct.mha", "a/ct.nii.gz", "a/z", "b/ct"]
    assert find_cases(root) == cases


@pytest.mark.parametrize(
    ("names", "naming", "clash"),
    [
        (["site1/case_1/imaging.nii.gz", "site2/case_1/imaging.nii.gz"], "auto", "prediction_1.nii.gz"),
        (["case_1.nii.gz", "case_1_0000.nii.gz"], "auto", "case_1.nii.gz"),
        (["a/x.nii.gz", "b/x.nii.gz"], "nnunet", "x.nii.gz"),
        (["a.mha", "a.nrrd"], "kits19", "prediction_a.nii.gz"),
        (["series/1.dcm", "series.nii.gz"], "auto", "series.nii.gz"),
    ],
)
def test_two_inputs_for_one_output_is_an_error_that_names_all_three(
    tmp_path: Path, names: list[str], naming: Naming, clash: str
) -> None:
    root = make(tmp_path, [*names, "innocent.nii"])
    with pytest.raises(UsageError, match="would both write") as caught:
        find_cases(root, naming=naming)
    message = str(caught.value)
    sources = [name.removesuffix("/1.dcm") for name in names]
    assert all(str(root / source) in message for source in sources)
    assert f" {clash}. " in message
    assert "innocent" not in message


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent: no such input"):
        find_cases(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"no CT found \(\.nii, \.nii\.gz, \.mha, \.mhd, \.nrrd"):
        find_cases(make(tmp_path, ["notes.txt", "image.png", "sub/a.raw"]))


# -------------------------------------------------------------------------------------------- Grand Challenge


def sockets(root: Path, *relative_paths: str, key: str = "socket") -> Path:
    """An inputs.json as Grand Challenge writes it (no more fields than matter)."""
    values = [
        {key: {"slug": Path(path).name, "relative_path": path}, "value": None, "file": None, "image": None}
        for path in relative_paths
    ]
    (root / "inputs.json").write_text(json.dumps(values))
    return root


@pytest.mark.parametrize("key", ["socket", "interface"])
def test_the_image_that_inputs_json_names_is_the_input(tmp_path: Path, key: str) -> None:
    make(tmp_path, ["images/abdominal-ct/1b2c.mha", "images/else/other.mha", "age.json"])
    sockets(tmp_path, "age.json", "images/abdominal-ct", key=key)
    assert outputs(find_cases(tmp_path), tmp_path) == {
        "images/abdominal-ct/1b2c.mha": "images/kidney-tumor-segmentation/1b2c.mha"
    }


def test_both_keys_of_todays_inputs_json_may_stand_side_by_side(tmp_path: Path) -> None:
    make(tmp_path, ["images/ct/1.mha"])
    socket = {"slug": "ct", "relative_path": "images/ct"}
    (tmp_path / "inputs.json").write_text(json.dumps([{"socket": socket, "interface": socket}]))
    assert len(find_cases(tmp_path)) == 1


def test_a_dicom_image_set_of_grand_challenge_gives_an_mha(tmp_path: Path) -> None:
    make(tmp_path, ["images/ct/1.2.3.dcm", "images/ct/1.2.4.dcm"])
    cases = find_cases(sockets(tmp_path, "images/ct"))
    assert outputs(cases, tmp_path) == {"images/ct": "images/kidney-tumor-segmentation/ct.mha"}


def test_the_output_socket_can_be_chosen(tmp_path: Path) -> None:
    make(tmp_path, ["images/ct/1.mha"])
    (case,) = find_cases(sockets(tmp_path, "images/ct"), output_slug="kidney-and-masses")
    assert case.output == Path("images/kidney-and-masses/1.mha")
    (case,) = find_cases(tmp_path, naming="nnunet")
    assert case.output == Path("1.mha")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not the list of sockets"),
        ("{}", "names 0 images"),
        ('{"a": 1}', "not the list of sockets"),
        ('[{"slug": "ct"}]', "not the list of sockets"),
        ("[]", "names 0 images"),
        ('[{"socket": {"relative_path": "age.json"}}]', r"names 0 images \(none\)"),
        ('[{"socket": {"relative_path": "images/../../etc"}}]', "names 0 images"),
        ('[{"socket": {"relative_path": "images/absent"}}]', "images/absent: no such folder"),
        (
            '[{"socket": {"relative_path": "images/a"}}, {"socket": {"relative_path": "images/b"}}]',
            r"names 2 images \(images/a, images/b\)",
        ),
    ],
)
def test_an_inputs_json_that_cannot_be_followed_is_an_error(
    tmp_path: Path, content: str, message: str
) -> None:
    make(tmp_path, ["images/ct/1.mha"])
    (tmp_path / "inputs.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        find_cases(tmp_path)


def test_an_empty_image_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images" / "ct").mkdir(parents=True)
    with pytest.raises(UsageError, match="images/ct: no CT found"):
        find_cases(sockets(tmp_path, "images/ct"))
