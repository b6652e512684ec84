"""The picture: three planes, radiological orientation, square millimetres, both structures outlined."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inference.formats.ct import Ct, NativeGrid
from inference.runner.findings import measure, take_apart
from inference.runner.preview import COLOURS, FIELD_MM, LINE_PX, MARGIN_PX, PIXEL_MM, write_preview
from tests.helpers import AIR_HU, FAT_HU, canonical_affine, files_under

SHAPE, SPACING_MM = (24, 40, 50), (5.0, 3.0, 2.0)
EXTENT_PX = (150, 150, 125)
"""(z, y, x): 120, 120 and 100 mm in pixels of 0.8 mm."""
TOP_PX = 8 + 2 * 22
"""Two lines of text."""
PANELS = {
    "axial": ((8, TOP_PX), (125, 150)),
    "coronal": ((8 + 125 + 8, TOP_PX), (125, 150)),
    "sagittal": ((8 + 125 + 8 + 125 + 8, TOP_PX), (150, 150)),
}
"""Left and top corner, width and height, by hand."""


def ct_of(hu: NDArray[np.int16], spacing_mm: tuple[float, float, float] = SPACING_MM) -> Ct:
    return Ct(hu, NativeGrid(hu.shape, canonical_affine(spacing_mm)))  # type: ignore[arg-type]


def preview(path: Path, ct: Ct, labels: NDArray[np.uint8]) -> None:
    write_preview(path, "a", ct, labels, measure(ct, labels, take_apart(labels, ct.spacing_mm)))


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "RGB"
        return np.asarray(picture)


def panel(picture: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    (left, top), (width, height) = PANELS[name]
    return picture[top : top + height, left : left + width]


def has_colour(picture: NDArray[np.uint8], label: int) -> NDArray[np.bool_]:
    return (picture == COLOURS[label]).all(axis=-1)


def labels_with_tumor() -> NDArray[np.uint8]:
    """A kidney to the patient's left, front and top, with a tumor in its middle."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[15:22, 4:16, 32:46] = 1
    labels[17:20, 7:12, 36:42] = 2
    return labels


def test_size_is_that_of_the_millimetres(tmp_path: Path) -> None:
    assert (PIXEL_MM, MARGIN_PX, LINE_PX) == (0.8, 8, 22)
    preview(tmp_path / "new" / "a.png", ct_of(np.full(SHAPE, FAT_HU, np.int16)), labels_with_tumor())
    z, y, x = EXTENT_PX
    assert pixels(tmp_path / "new" / "a.png").shape[0] == max(y, z) + TOP_PX + 8
    assert pixels(tmp_path / "new" / "a.png").shape[1] >= x + x + y + 4 * 8
    assert files_under(tmp_path / "new") == ["a.png"]


@pytest.mark.parametrize("label", [1, 2])
def test_outlines_lie_where_the_structures_do(tmp_path: Path, label: int) -> None:
    """Patient's left on the viewer's right, front above or on the left, head at the top."""
    preview(tmp_path / "a.png", ct_of(np.full(SHAPE, AIR_HU, np.int16)), labels_with_tumor())
    picture = pixels(tmp_path / "a.png")
    size = {"z": 5.0 / 0.8, "y": 3.0 / 0.8, "x": 2.0 / 0.8}  # pixels a voxel
    z, y, x = ((15, 22), (4, 16), (32, 46)) if label == 1 else ((17, 20), (7, 12), (36, 42))
    upside_down = (SHAPE[0] - z[1], SHAPE[0] - z[0])
    expected = {
        "axial": ((y, "y"), (x, "x")),
        "coronal": ((upside_down, "z"), (x, "x")),
        "sagittal": ((upside_down, "z"), (y, "y")),
    }
    for name, spans in expected.items():
        found = np.argwhere(has_colour(panel(picture, name), label))
        for axis, ((first, end), letter) in enumerate(spans):
            assert found[:, axis].min() == pytest.approx(first * size[letter], abs=2), name
            assert found[:, axis].max() + 1 == pytest.approx(end * size[letter], abs=2), name


def test_structures_are_outlined_and_not_filled(tmp_path: Path) -> None:
    preview(tmp_path / "a.png", ct_of(np.full(SHAPE, 40, np.int16)), labels_with_tumor())
    axial = panel(pixels(tmp_path / "a.png"), "axial")
    middle = axial[round(9.5 * 3 / 0.8), round(39 * 2 / 0.8)]  # inside the tumor
    assert middle.tolist() == [127] * 3  # 40 HU is the middle of the window


def test_without_a_tumor_the_planes_go_through_the_kidneys(tmp_path: Path) -> None:
    labels = np.minimum(labels_with_tumor(), 1)
    preview(tmp_path / "a.png", ct_of(np.full(SHAPE, FAT_HU, np.int16)), labels)
    picture = pixels(tmp_path / "a.png")
    for name in PANELS:
        assert has_colour(panel(picture, name), 1).any()
    assert not has_colour(picture, 2).any()


def test_the_largest_tumor_is_shown(tmp_path: Path) -> None:
    labels = labels_with_tumor()
    labels[2:4, 30:32, 5:8] = 2  # a small one elsewhere, in no plane through the large one
    preview(tmp_path / "a.png", ct_of(np.full(SHAPE, FAT_HU, np.int16)), labels)
    axial = has_colour(panel(pixels(tmp_path / "a.png"), "axial"), 2)
    assert axial.any()
    assert not axial[:, : 125 // 2].any()


def test_it_says_case_volumes_window_planes_slices_and_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, place, text, *_, **__: said.append(text))
    labels = labels_with_tumor()
    labels[18, 6:13, 35:43] = 2  # most tumor lies here
    labels[19, 9, 45] = 2  # and a speck elsewhere
    preview(tmp_path / "a.png", ct_of(np.full(SHAPE, FAT_HU, np.int16)), labels)
    n_tumor = np.count_nonzero(labels == 2)
    kidney_ml = round((np.count_nonzero(labels) - n_tumor) * 0.03, 2)
    assert f"a    left kidney: {kidney_ml} ml; tumor 1: {round(n_tumor * 0.03, 2)} ml" in said
    assert "window -160 to 240 HU; research use only" in said
    assert "slice 18 of 0 to 23, z 90.0 mm" in said
    assert {"axial", "coronal", "sagittal", "R", "L", "A", "P"} <= set(said)


def test_nothing_found_is_shown_too(tmp_path: Path) -> None:
    preview(tmp_path / "a.png", ct_of(np.full(SHAPE, FAT_HU, np.int16)), np.zeros(SHAPE, np.uint8))
    picture = pixels(tmp_path / "a.png")
    assert not (has_colour(picture, 1) | has_colour(picture, 2)).any()
    assert (picture == round((-100 + 160) / 400 * 255)).all(axis=-1).any()  # fat's grey


def test_a_whole_body_scan_is_shown_around_its_kidneys(tmp_path: Path) -> None:
    shape = (200, 20, 20)
    labels = np.zeros(shape, dtype=np.uint8)
    labels[180:190, 5:15, 5:15] = 1
    preview(tmp_path / "a.png", ct_of(np.zeros(shape, np.int16), (5.0, 5.0, 5.0)), labels)
    picture = pixels(tmp_path / "a.png")
    assert picture.shape[0] == FIELD_MM / PIXEL_MM + TOP_PX + 8  # not the scan's 1000 mm
    assert has_colour(picture, 1)[:, 8 + 125 + 8 :].any()  # in the coronal and sagittal planes


def test_a_map_that_fills_the_ct_has_an_outline_too(tmp_path: Path) -> None:
    preview(tmp_path / "a.png", ct_of(np.zeros(SHAPE, np.int16)), np.ones(SHAPE, np.uint8))
    assert has_colour(pixels(tmp_path / "a.png"), 1).any()
