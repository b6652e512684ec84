"""What an evaluation looks like: tables for terminal and Markdown, JSON, CSV, and a plot."""

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import numpy as np

from evaluation.evaluate import OVERALL, CaseScore, Evaluation, Row, Scores
from evaluation.installed import check_installed
from evaluation.lesions import LESIONS
from inference.formats.staging import staged

REPORT_SUFFIX = ".json"
GRID_TITLES = {
    "native": "Original resolution",
    "roi": "ROI resolution",
    "official": "Original resolution, as KiTS19's own script has it",
    "extras": "Lesions, volumes and distances",
}
AS_NAMED: Mapping[str, str] = MappingProxyType({"encoding": "utf-8", "errors": "surrogateescape"})
"""A case may be called after a file whose name is no UTF-8: its bytes stay."""
NO_GROUP = "-"
"""Of a case that no split names."""
OFFICIAL_RULE = (
    "KiTS19's own script gives NaN where both label maps are empty, ours 1; "
    "it counts label 3 as tumor, ours as kidney"
)
WORST_NAMED = 3
"""So many worst cases of a group and score are named in the plot."""
PANEL_INCHES, SCORE_INCHES, HEIGHT_INCHES, DPI = 0.6, 1.1, 4.0, 150
SCORES_IN_A_LINE = 12
"""Of the plot; more panels go below."""
BOX_WIDTH, DOTS_FROM, SPREAD, NAMES_FROM, NAME_HEIGHT = 0.35, 0.08, 0.2, 0.33, 0.03
"""In the plot, where scores lie 1 apart: the box to the left, the cases' dots and names to the right."""


def show(evaluation: Evaluation) -> str:
    """All tables as text, each case and then the groups. The same in a terminal and as Markdown."""
    different = [
        score
        for score in evaluation.cases
        if "official" in score.grids and not _agree(score.grids["native"], score.grids["official"])
    ]
    grids = [grid for grid in evaluation.tables if grid != "official" or different]
    parts = []
    for grid in grids:
        parts.append(f"## {GRID_TITLES[grid]}: cases")
        if grid == "official":
            count = f"The scores differ in {len(different)} of {len(evaluation.cases)} cases:"
            parts += [f"{OFFICIAL_RULE}. {count}", markdown_table(*_both_rows(different))]
        else:
            parts.append(markdown_table(*_case_rows(evaluation, grid)))
    for grid in grids:
        title = f"## {GRID_TITLES[grid]}: mean ± standard deviation"
        parts += [title, markdown_table(*_group_rows(evaluation.tables[grid]))]
    if lines := _lesion_lines(evaluation.tables.get("extras", [])):
        parts += ["## Lesions", "\n".join(lines)]
    if "official" in evaluation.tables and not different:
        parts.append("KiTS19's own script gives the same scores on the original grid.")
    return "\n\n".join(parts) + "\n"


def _lesion_lines(rows: Sequence[Row]) -> list[str]:
    """Sums over each group's cases."""
    lines = []
    for row in rows:
        if "lesions_found" not in row.total:
            continue
        found, missed, false = (round(row.total[f"lesions_{name}"]) for name in LESIONS)
        share = f" ({found / (found + missed):.1%})" if found + missed else ""
        lines.append(
            f"- {row.group}: {found} of {found + missed} tumors found{share}, {missed} missed, {false} false "
            f"({false / row.cases:.2f} a case)"
        )
    return lines


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text too; numbers to the right of the first two."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join(
        "-" * (width + 2) if i == 0 else "-" * (width + 1) + ":" for i, width in enumerate(widths)
    )
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def write_reports(out: Path, evaluation: Evaluation) -> list[Path]:
    """The JSON report, and beside it the same as CSV (cases, groups), Markdown and a plot as PNG.

    Args:
        out: the JSON file (see `check_report_path`); the others have its name with another suffix.
        evaluation: with at least one scored case.

    Returns:
        The files, each written whole or not at all.
    """
    content = {
        "metric": evaluation.metric,
        "tables": {grid: [asdict(row) for row in rows] for grid, rows in evaluation.tables.items()},
        "groups": evaluation.groups,
        "cases": [asdict(score) for score in (*evaluation.cases, *evaluation.failed)],
    }
    cases, groups = _csv(_case_columns(evaluation)), _csv(_group_columns(evaluation))
    return [
        _write(out, lambda path: path.write_text(json.dumps(_without_nan(content), indent=1) + "\n")),
        _write(out.with_suffix(".csv"), lambda path: path.write_text(cases, **AS_NAMED)),
        _write(out.with_suffix(".groups.csv"), lambda path: path.write_text(groups, **AS_NAMED)),
        _write(out.with_suffix(".md"), lambda path: path.write_text(show(evaluation), **AS_NAMED)),
        _write(out.with_suffix(".png"), lambda path: _plot(path, evaluation)),
    ]


def say(text: str) -> None:
    """Print to stdout. Whoever stops reading there (`| head`) has seen enough: that is no error."""
    try:
        click.echo(text.encode(errors="backslashreplace").decode())  # a name may be no UTF-8
    except BrokenPipeError:  # Python flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_report_path(out: Path) -> None:
    """Say before the work what would spoil the report after it.

    Raises:
        ValueError: not a `.json` name, a folder, or in a folder that cannot be made or written; or the plot's
            package is not installed.
    """
    check_installed("matplotlib", "the plot of a report")
    if out.suffix != REPORT_SUFFIX:
        raise ValueError(f"--out {out}: not a file name that ends in {REPORT_SUFFIX}. Name one")
    check_writable(out)


def check_writable(out: Path, *, option: str = "--out") -> None:
    """Make the folder of a file that will be written at the end of the work.

    Raises:
        ValueError: the file is a folder or a device, or in a folder that cannot be made or written.
    """
    if out.is_dir():
        raise ValueError(f"{option} {out}: is a folder. Name a file")
    if out.exists() and not out.is_file():
        raise ValueError(f"{option} {out}: is no regular file. Name one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option} {out}: {out.parent} cannot be made ({error.strerror})") from error
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {out}: {out.parent} is not writable. Choose another folder")


def _group_of(case: str, evaluation: Evaluation) -> str:
    return next((g for g, names in evaluation.groups.items() if g != OVERALL and case in names), "")


def _case_rows(evaluation: Evaluation, grid: str) -> tuple[list[str], list[list[str]]]:
    keys = list(evaluation.cases[0].grids[grid])
    rows = [
        [
            score.case,
            _group_of(score.case, evaluation) or NO_GROUP,
            *(f"{score.grids[grid][key]:.3f}" for key in keys),
        ]
        for score in evaluation.cases
    ]
    return ["case", "set", *keys], rows


def _both_rows(cases: Sequence[CaseScore]) -> tuple[list[str], list[list[str]]]:
    keys = list(cases[0].grids["official"])
    whose = {"ours": "native", "official": "official"}
    rows = [
        [score.case, *(f"{score.grids[grid][key]:.3f}" for key in keys for grid in whose.values())]
        for score in cases
    ]
    return ["case", *(f"{key} {name}" for key in keys for name in whose)], rows


def _group_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The paper's Table 1: a line a group, mean ± sd."""
    keys = list(rows[0].mean)
    lines = [[row.group, str(row.cases), *(_mean_sd(row, key) for key in keys)] for row in rows]
    return ["set", "cases", *keys], lines


def _mean_sd(row: Row, key: str) -> str:
    text = f"{row.mean[key]:.3f}" + (f" ± {row.sd[key]:.3f}" if row.cases > 1 else "")
    if key in row.interval and row.cases > 1:
        low, high = row.interval[key]
        text += f" [{low:.3f}, {high:.3f}]"
    return text


def _agree(ours: Scores, official: Scores) -> bool:
    return all(math.isclose(ours[key], official[key], abs_tol=1e-12) for key in official)  # NaN never agrees


def _case_columns(evaluation: Evaluation) -> list[list[Any]]:
    columns = [(grid, key) for grid, scores in evaluation.cases[0].grids.items() for key in scores]
    rows: list[list[Any]] = [["case", "set", *(f"{grid}_{key}" for grid, key in columns), "error"]]
    for score in evaluation.cases:
        values = [score.grids[grid][key] for grid, key in columns]
        rows.append([score.case, _group_of(score.case, evaluation), *values, ""])
    for score in evaluation.failed:
        rows.append([score.case, "", *([""] * len(columns)), score.error])
    return rows


def _group_columns(evaluation: Evaluation) -> list[list[Any]]:
    rows: list[list[Any]] = [["grid", "set", "cases", "score", "mean", "sd", "low", "high"]]
    for grid, table in evaluation.tables.items():
        for row in table:
            rows += [
                [
                    grid,
                    row.group,
                    row.cases,
                    key,
                    row.mean[key],
                    row.sd[key],
                    *row.interval.get(key, ("", "")),
                ]
                for key in row.mean
            ]
    return rows


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _without_nan(value: object) -> object:
    """NaN is no JSON: null takes its place."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write(path: Path, write: Callable[[Path], object]) -> Path:
    with staged(path) as partial:
        write(partial)
    return path


def _plot(path: Path, evaluation: Evaluation) -> None:
    """A panel a group: a box for each score, each case a dot, the worst cases named."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = {group: names for group, names in evaluation.groups.items() if names}
    keys = list(evaluation.cases[0].grids["native"])
    columns = min(len(panels), max(1, SCORES_IN_A_LINE // len(keys)))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=((PANEL_INCHES + SCORE_INCHES * len(keys)) * columns, HEIGHT_INCHES * lines),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (group, names) in zip(axes.flat, panels.items(), strict=False):
        found = [score for score in evaluation.cases if score.case in names]
        for i, key in enumerate(keys):
            _box(axis, i, found, key)
        axis.set_xticks(range(len(keys)), [key.replace("_", "\n") for key in keys], fontsize=8)
        axis.set_title(f"{group}, {len(found)} case{'s' if len(found) > 1 else ''}", fontsize=10)
        axis.set(xlim=(-0.5, len(keys) - 0.2), ylim=(-0.03, 1.03))
        axis.grid(axis="y", alpha=0.3)
    figure.supylabel(f"{evaluation.metric} score, original resolution", fontsize=10)
    figure.savefig(path, dpi=DPI, format="png")
    plt.close(figure)


def _box(axis: Any, place: int, cases: Sequence[CaseScore], key: str) -> None:
    cases = [score for score in cases if not math.isnan(score.grids["native"][key])]
    if not cases:
        return
    values = np.array([score.grids["native"][key] for score in cases])
    axis.boxplot(values, positions=[place - BOX_WIDTH / 2], widths=BOX_WIDTH, showfliers=False)
    spread = np.linspace(0, SPREAD, len(values)) if len(values) > 1 else np.zeros(1)
    axis.plot(place + DOTS_FROM + spread, values, ".", alpha=0.5, markersize=5)
    height = -1.0
    for rank in np.argsort(values, kind="stable")[: min(WORST_NAMED, len(values) // 2)]:
        height = max(float(values[rank]), height + NAME_HEIGHT)  # names that would overlap go upwards
        axis.text(place + NAMES_FROM, height, cases[rank].case, fontsize=6, va="center")
