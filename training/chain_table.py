"""The chain of rounds as a Markdown table, and the documents that show it."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from training.chain import CHAIN, START, Round
from training.config import SourceShares

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "training" / "README.md", ROOT / "weights" / "MODEL_CARD.md")
BLOCK = re.compile(r"(?<=<!-- chain -->\n\n).*?(?=\n\n<!-- /chain -->)", re.DOTALL)
"""What lies between the two markers of a document."""
COLUMNS = ("round", "starts from", "sample", "batch", "steps", "networks", "sources", "what it is for")


def chain_table(chain: Sequence[Round] = CHAIN) -> str:
    """One row a round, in the order of training, and where rounds without a parent start from."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_row(one) for one in chain)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n¹ {START}"


def _row(one: Round) -> tuple[str, ...]:
    config = one.config
    shape = config.shape_vox
    size = f"{shape[0]}³" if len(set(shape)) == 1 else "×".join(map(str, shape))
    region = "whole ROI" if config.crop_vox is None else "crop"
    return (
        f"`{one.name}`",
        f"`{one.parent}`" if one.parent else "nothing" if one.from_nothing else "¹",
        f"{region}, {size} at {config.roi.spacing_mm:g} mm",
        str(config.batch_size),
        str(config.max_steps),
        _networks(one),
        _sources(config.sources),
        one.why,
    )


def _networks(one: Round) -> str:
    own = f"mean of {one.parts}" if one.parts > 1 else "1"
    return f"{own}, and of the parent's" if one.with_parent else own


def _sources(shares: SourceShares) -> str:
    """Shares of the samples, largest first."""
    named = sorted(asdict(shares).items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in named if share)


def update(document: Path, table: str) -> None:
    """Replace the table between a document's markers.

    Raises:
        ValueError: the document has no markers, or several pairs.
    """
    text = document.read_text(encoding="utf-8")
    if len(BLOCK.findall(text)) != 1:
        raise ValueError(f"{document}: not one pair of <!-- chain --> and <!-- /chain -->. Add the markers")
    document.write_text(BLOCK.sub(lambda _: table, text), encoding="utf-8")
