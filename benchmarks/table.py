"""Rows of figures as plain text."""

from typing import Any

Rows = list[dict[str, Any]]


def plain_table(rows: Rows, digits: str) -> str:
    """A line of column names and one a row; `digits` formats floats (".2f", say), None is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column), digits) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in (columns, *cells)
    )


def _cell(value: object, digits: str) -> str:
    if value is None:
        return ""
    return format(value, digits) if isinstance(value, float) else str(value)
