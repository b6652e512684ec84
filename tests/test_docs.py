"""The pages: links lead somewhere, README stays short, and its commands and Python lines work as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for folder in (".", "docs", "weights", "training", "benchmarks")
    for path in (ROOT / folder).glob("*.md")
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
README_WORDS = 900
FIRST_SCREEN_LINES = 15
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(path), f"{page.name}: {target}"


def test_the_readme_is_short_and_says_first_what_the_weights_may_not_be_used_for() -> None:
    assert len(README.split()) <= README_WORDS
    first_screen = "\n".join(README.splitlines()[:FIRST_SCREEN_LINES]).lower()
    assert "non-commercial" in first_screen
    assert "no medical device" in first_screen
    assert README.count("<!-- accuracy -->") == README.count("<!-- /accuracy -->") == 1


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    linked = set(LINK.findall(README))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked


def test_the_readmes_python_lines_write_what_the_command_writes(tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert len([line for line in block[1].splitlines() if line]) <= 5
    code = (
        block[1].replace("nested_vnet", "inference").replace('"labels.nii.gz"', f'"{tmp_path}/labels.nii.gz"')
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "inference", "--input", "test_data/input/thick_slices.nii.gz"]
    subprocess.run([*command, "--output", str(tmp_path / "out")], cwd=ROOT, check=True)
    written = (tmp_path / "out" / "thick_slices.nii.gz").read_bytes()
    assert (tmp_path / "labels.nii.gz").read_bytes() == written


def test_the_readme_names_every_verb_it_uses_as_run_sh_does() -> None:
    usage = subprocess.run(
        [str(ROOT / "run.sh"), "--help"], capture_output=True, encoding="utf-8", check=True
    ).stdout
    known = set(re.findall(r"^\./run\.sh \[?(\w+)", usage, re.MULTILINE))
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # names verbs that are gone
            continue
        used = set(re.findall(r"\./run\.sh (\w+)", page.read_text(encoding="utf-8")))
        assert used <= known | {"VERB"}, page.name
