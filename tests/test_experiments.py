"""The table of experiments: its columns, unique ids, and parents that are there."""

import csv
import re
from datetime import date
from pathlib import Path

TRAINING = Path(__file__).resolve().parent.parent / "training"
COLUMNS = ["id", "date", "commit", "parent", "change", "figures", "decision"]
OPTIONAL = {"commit", "parent"}


def _rows() -> list[dict[str, str]]:
    with (TRAINING / "experiments.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        assert reader.fieldnames == COLUMNS
        return list(reader)


def test_every_row_is_filled_in() -> None:
    for row in _rows():
        assert list(row) == COLUMNS, f"{row['id']}: too many fields"
        assert all(row[name] for name in COLUMNS if name not in OPTIONAL), row["id"]
        date.fromisoformat(row["date"])
        assert re.fullmatch(r"([0-9a-f]{7,40})?", row["commit"]), row["id"]


def test_ids_are_unique_and_parents_stand_above() -> None:
    known: set[str] = set()
    for row in _rows():
        assert row["id"] not in known
        assert not row["parent"] or row["parent"] in known, f"{row['id']}: no {row['parent']!r} above it"
        known.add(row["id"])


def test_the_page_names_rows_that_are_there() -> None:
    ids = {row["id"] for row in _rows()}
    page = (TRAINING / "EXPERIMENTS.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`", page))
    assert named <= ids
