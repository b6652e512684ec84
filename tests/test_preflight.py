"""What is distrusted before a library sees a file, by hand-made files."""

import gzip
import io
import zlib
from pathlib import Path

import pytest

from inference.formats import preflight
from inference.formats.preflight import (
    Body,
    Bounded,
    OverclaimError,
    check_body,
    check_claim,
    check_place,
    find_metaimage_body,
    find_nrrd_body,
    finite,
    geometry_warnings,
    is_dicom,
)
from inference.formats.volume import CaseError

NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: {encoding}\n{more}\n"


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_claim_is_what_a_file_can_hold(tmp_path: Path) -> None:
    check_claim(tmp_path, (2, 3, 4), 2, 48)
    with pytest.raises(CaseError, match="claims 48 bytes, more than the file can hold"):
        check_claim(tmp_path, (2, 3, 4), 2, 47)
    with pytest.raises(CaseError, match="more than any CT"):
        check_claim(tmp_path, (1 << 11, 1 << 11, 1 << 10), 0, 0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS pointer.*git lfs pull"),
        (b"/annex/objects/SHA256E-s12--ab.nii.gz\n", "git-annex pointer.*git annex get"),
    ],
)
def test_pointers_are_told_from_files(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(CaseError, match=says):
        check_place(write(tmp_path / "ct.nii.gz", content))
    check_place(write(tmp_path / "ct.nii", b"version of something else"))


def test_a_bounded_stream_gives_what_it_has() -> None:
    stream = Bounded(io.BytesIO(b"x" * 100_000), 100_000)
    assert len(stream.read(70_000)) == 70_000
    assert len(stream.read(40_000)) == 30_000  # a small excess is an end, as of any file
    stream.seek(20_000)
    with pytest.raises(OverclaimError):
        stream.read(80_001)
    assert len(stream.read(80_000)) == 80_000
    with pytest.raises(ValueError, match="a slice of 300000000 bytes"):
        Bounded(io.BytesIO()).read(300_000_000)  # of a length that nobody knows
    with pytest.raises(OverclaimError):
        stream.seek(100_001)
    with pytest.raises(ValueError, match="a slice of -1 bytes"):
        stream.read()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bytes(128) + b"DICM", True),
        (b"\x02\x00\x00\x00UL\x04\x00", True),  # meta information, no preamble
        (b"\x08\x00\x05\x00CS\x0a\x00", True),  # a data set in explicit VR
        (b"\x08\x00\x16\x00\x1a\x00\x00\x00", True),  # and in implicit VR: 26 bytes
        (b"\x00\x08\x00\x05CS\x00\x0a", True),  # and big-endian
        (b"\x08\x00\x16\x00\x1a\x00\x00\x40", False),  # a gigabyte in the first field
        (b"hello, world", False),
        (b"", False),
        (b"PK\x03\x04" + bytes(200), False),
        (b"\x5c\x01\x00\x00" + bytes(344), False),  # NIfTI
    ],
)
def test_dicom_is_known_by_how_it_begins(tmp_path: Path, content: bytes, expected: bool) -> None:
    assert is_dicom(write(tmp_path / "IM1", content)) is expected


@pytest.mark.parametrize(
    ("encoding", "body", "is_whole"),
    [
        ("raw", b"\1\0" * 8, True),
        ("raw", b"\1\0" * 7, False),
        ("hex", b"0100" * 8, True),
        ("hex", b"0100" * 7, False),
        ("gzip", gzip.compress(bytes(16), mtime=0), True),
        ("gzip", zlib.compress(bytes(16)), True),
        ("gzip", gzip.compress(bytes(15), mtime=0), False),
        ("gzip", gzip.compress(bytes(17), mtime=0), False),
        ("gzip", gzip.compress(bytes(16), mtime=0)[:-9], False),
        ("text", b"1 2 3 4 5 6 7 8", True),
        ("text", b"-1000 2\n3 4\t5 6 7 8\n\n", True),
        ("text", b"1 2 3 4 5 6 7", False),
        ("text", b"1 2 3 4 5 6 7 8 9", False),
        ("text", b"12345678", False),
    ],
)
@pytest.mark.parametrize("piece_bytes", [8, preflight.PIECE_BYTES])
def test_voxels_are_as_many_as_claimed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
    body: bytes,
    is_whole: bool,
    piece_bytes: int,
) -> None:
    """Eight voxels of two bytes, behind three bytes of a header."""
    monkeypatch.setattr(preflight, "PIECE_BYTES", piece_bytes)
    path = write(tmp_path / "x.nrrd", b"abc" + body)
    if is_whole:
        check_body(path, Body(path, 3, encoding), (2, 2, 2), 2)
    else:
        with pytest.raises(CaseError, match=r"x\.nrrd: "):
            check_body(path, Body(path, 3, encoding), (2, 2, 2), 2)


def test_compressed_voxels_are_as_long_as_a_metaimage_says(tmp_path: Path) -> None:
    body = zlib.compress(bytes(16))
    path = write(tmp_path / "x.mha", body)
    check_body(path, Body(path, 0, "gzip", len(body)), (2, 2, 2), 2)
    with pytest.raises(CaseError, match="are not the 16 bytes it claims"):
        check_body(path, Body(path, 0, "gzip", len(body) + 1), (2, 2, 2), 2)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "hex"])
def test_where_a_nrrds_voxels_begin(tmp_path: Path, encoding: str) -> None:
    text = NRRD.format(encoding=encoding, more="")
    path = write(tmp_path / "a.nrrd", text + "voxels")
    assert find_nrrd_body(path) == Body(path, len(text), encoding)


@pytest.mark.parametrize("name", ["ascii", "text", "TXT"])
def test_text_has_three_names(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.nrrd", NRRD.format(encoding=name, more=""))
    assert find_nrrd_body(path).encoding == "text"


@pytest.mark.parametrize(
    ("file", "encoding", "more", "says"),
    [
        ("a.nrrd", "bzip2", "", "its encoding is 'bzip2'"),
        ("a.nrrd", "raw", "data file: a.raw\n", "a .nhdr with one file beside it"),
        ("a.nhdr", "raw", "data file: /etc/passwd\n", "its voxels are in '/etc/passwd'"),
        ("a.nhdr", "raw", "data file: ../a.raw\n", "its voxels are in"),
        ("a.nhdr", "raw", "data file: a%03d.raw 1 9 1\n", "its voxels are in"),
        ("a.nhdr", "raw", "data file: LIST\na.raw\n", "its voxels are in 'LIST'"),
        ("a.nhdr", "raw", "data file: a.raw\nbyte skip: 7\n", "bytes to skip"),
    ],
)
def test_nrrds_that_are_refused(tmp_path: Path, file: str, encoding: str, more: str, says: str) -> None:
    path = write(tmp_path / file, NRRD.format(encoding=encoding, more=more))
    with pytest.raises(CaseError, match=says):
        find_nrrd_body(path)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.nrrd", NRRD.format(encoding="raw", more="space: left-posterior-superior\nspacings: 1 1 3\n"), []),
        ("a.nrrd", NRRD.format(encoding="raw", more="Space: RAS\nspace directions: (1,0,0) (0,1,0)\n"), []),
        ("a.nhdr", NRRD.format(encoding="raw", more="space dimension: 3\nspacings: 1 1 3\n"), ["left and"]),
        ("a.nrrd", NRRD.format(encoding="raw", more="spacings: nan nan nan\n"), ["1 mm", "left and"]),
        ("a.mha", "NDims = 3\nElementSize = 1 1 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n", []),
        ("a.mha", "NDims = 3\nRotation = 1 0 0 0 1 0 0 0 1\n", ["1 mm"]),
        ("a.mhd", "NDims = 3\n", ["1 mm", "left and"]),
    ],
)
def test_what_a_header_leaves_open(tmp_path: Path, name: str, text: str, says: list[str]) -> None:
    found = geometry_warnings(write(tmp_path / name, text), is_nrrd=name.startswith("a.n"))
    assert [part in line for part, line in zip(says, found, strict=True)] == [True] * len(says)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.nrrd", NRRD.format(encoding="raw", more='space units: "mm" "mm" "Meters"\n')),
        ("a.nrrd", NRRD.format(encoding="raw", more='units: "um" "um" "um"\n')),
        ("a.mha", "DistanceUnits = cm\n"),
    ],
)
def test_lengths_in_another_unit_are_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(CaseError, match=r"its header is in (Meters|um|cm)"):
        geometry_warnings(write(tmp_path / name, text), is_nrrd=name == "a.nrrd")


def test_a_detached_file_lies_beside_its_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nhdr", NRRD.format(encoding="raw", more="data file: ./a.raw\n"))
    assert find_nrrd_body(path) == Body(tmp_path / "a.raw", 0, "raw")
    path = write(tmp_path / "a.mhd", "NDims = 3\nBinaryData = False\nElementDataFile = a.txt\n")
    assert find_metaimage_body(path) == Body(tmp_path / "a.txt", 0, "text")


def test_finite_numbers() -> None:
    assert finite(["1", 2.5], 2) == (1.0, 2.5)
    assert finite(3, 1) == (3.0,)
    assert finite(["0,75", "0,75"], 2) is None
    assert finite([1, 2], 3) is finite(None, 1) is finite(["nan"], 1) is None
