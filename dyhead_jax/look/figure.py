"""A Matplotlib figure in the style of this room's pictures, and its PNG file in memory."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, MUTED = "#1f2933", "#7b8794"
_STYLE: Any = {"font.size": 9, "axes.titlesize": 9, "axes.edgecolor": MUTED, "text.color": INK, "axes.titlecolor": INK}


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of this size in inches, white in light and dark pages; the style holds inside the block."""
    with matplotlib.rc_context(_STYLE):
        yield Figure((width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    return buffer.getvalue()
