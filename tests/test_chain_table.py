"""The documents' table of training rounds is that of training's chain."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import invoke
from training import chain_table as module
from training.chain import CHAIN, START
from training.chain_table import BLOCK, DOCUMENTS, chain_table, update
from training.cli import main


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_show_the_chain(document: Path) -> None:
    assert BLOCK.findall(document.read_text(encoding="utf-8")) == [chain_table()], (
        f"{document.name} is behind training/chain.py: run `python -m training chain --write`"
    )


def test_a_row_says_what_its_round_says() -> None:
    lines = chain_table().splitlines()
    assert lines[-1] == f"¹ {START}"
    for one, line in zip(CHAIN, lines[2:-2], strict=True):
        name, start, sample, batch, steps, networks, sources, why = line.strip("| ").split(" | ")
        assert name == f"`{one.name}`"
        without = "nothing" if one.from_nothing else "¹"
        assert start == (without if one.parent is None else f"`{one.parent}`")
        assert sample.endswith(f" at {one.config.roi.spacing_mm:g} mm")
        assert sample.startswith("whole ROI" if one.config.crop_vox is None else "crop")
        assert int(batch) == one.config.batch_size
        assert int(steps) == one.config.max_epochs * one.config.steps_per_epoch
        assert networks.startswith("1" if one.parts == 1 else f"mean of {one.parts}")
        assert networks.endswith("the parent's") == one.with_parent
        for source, percent in re.findall(r"(\w+) (\d+)%", sources):
            assert getattr(one.config.sources, source) == pytest.approx(int(percent) / 100, abs=0.005)
        assert why == one.why


def test_the_command_rewrites_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Before\n\n<!-- chain -->\n\nold\n\n<!-- /chain -->\n\nAfter\n", encoding="utf-8")
    monkeypatch.setattr(module, "DOCUMENTS", (page,))
    printed = invoke(main, "chain")
    assert printed.output == chain_table() + "\n"
    assert "old" in page.read_text(encoding="utf-8")
    assert invoke(main, "chain", "--write").exit_code == 0
    before, table, after = re.split(r"<!-- /?chain -->", page.read_text(encoding="utf-8"))
    assert (before, table.strip(), after) == ("# Before\n\n", chain_table(), "\n\nAfter\n")


def test_a_document_without_markers_is_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md.*markers"):
        update(page, chain_table([replace(CHAIN[0], parent=None)]))
