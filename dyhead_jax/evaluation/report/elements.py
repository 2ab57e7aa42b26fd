"""Pieces of HTML: numbers, tables, pictures. All texts that come from data are escaped here or by the caller."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

NONE = "–"


def number(value: float | None, digits: int = 3) -> str:
    """A number from 0 to 1 as .123; a dash for None and for COCO's -1."""
    if value is None or value < 0 or np.isnan(value):
        return NONE
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def integer(value: int) -> str:
    """Thousands are set apart by a narrow space."""
    return f"{value:,}".replace(",", "\u202f")


def cell(text: str) -> str:
    """A table cell of escaped text."""
    return f'<td class="none">{text}</td>' if text in (NONE, "0") else f"<td>{text}</td>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the rows. head, and the first entry of a row: escaped; other entries: <td>s."""
    top = f'<th class="name" scope="col">{head[0]}</th>' + "".join(f'<th scope="col">{name}</th>' for name in head[1:])
    body = "".join(f'<tr><th class="name" scope="row">{first}</th>{"".join(rest)}</tr>' for first, *rest in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def definitions(lines: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    inside = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in lines)
    return f"<dl>{inside}</dl>"


def image(pixels: np.ndarray, description: str) -> str:
    """An <img> with the (h, w, 3) uint8 pixels inside it, as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=82, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = pixels.shape[:2]
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" loading="lazy"'
        f' alt="{escape(description)}">'
    )
