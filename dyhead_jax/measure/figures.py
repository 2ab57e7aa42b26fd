"""What all pictures of measurements share: colours, markers, and how a figure becomes a file."""

import gc
from pathlib import Path

from matplotlib.figure import Figure

from dyhead_jax.files import atomic

# The palette of Okabe and Ito, told apart with any colour vision (https://jfly.uni-koeln.de/color), without its yellow,
# which is too light for a line; markers and dashes differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")


def save(figure: Figure, path: Path) -> None:
    """Writes the figure in the format that the file's ending names, and empties it."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=120, facecolor="white")
    figure.clear()
    gc.collect()  # its parts refer to each other; beside JAX's many objects Python would keep dozens, 1 MB each
