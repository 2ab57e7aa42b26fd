"""Tables in Markdown, as the benchmarks print and write them."""

from collections.abc import Sequence


def header(*names: str) -> list[str]:
    """The first two lines of a table that is printed row by row."""
    return [row(*names), "|" + "---|" * len(names)]


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A whole table with padded cells: the first row is the header, the first column stands left, the others right."""
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(rows[0]))]
    lines = [
        row(cells[0].ljust(widths[0]), *(c.rjust(width) for c, width in zip(cells[1:], widths[1:], strict=True)))
        for cells in rows
    ]
    rule = row(":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:]))
    return "\n".join([lines[0], rule, *lines[1:]])
