"""What became of the boxes of the training batches: how many train, and how many were left out on the way, and why."""

from typing import Any

import numpy as np

NAMES = ("boxes", "boxes_too_small", "boxes_cut_away", "boxes_over_max")
_WINDOW, _LEAST = 200, 20  # steps after which boxes are judged, if a pass takes longer; boxes that it takes


class BoxCounts:
    """Counts since the start of the run, of this host's rows.

    boxes: that train, crowd regions among them; boxes_too_small: with a side under data.min_box_side after the
    transforms; boxes_cut_away: of which a crop or a mosaic left too little; boxes_over_max: beyond data.max_boxes.
    steps: of a pass over the images; min_box_side: as in the config.
    """

    def __init__(self, steps: int, min_box_side: float):
        self._counts: dict[str, int] = dict.fromkeys(NAMES, 0)
        self._steps = max(1, min(_WINDOW, steps))
        self._min_box_side = min_box_side
        self._window = [0, 0, 0]  # steps, boxes, boxes that were too small

    def add(self, mask: np.ndarray, left_out: np.ndarray, too_small: np.ndarray, over_max: np.ndarray) -> str | None:
        """Adds a step. mask: (b, m) bool, boxes that train; the others (b,), boxes of each row, left_out of all kinds.

        Returns what is wrong when most boxes of a pass, or of 200 steps, were too small; None else.
        """
        small, over = int(too_small.sum()), int(over_max.sum())
        lost, kept = int(left_out.sum()), int(mask.sum())
        for name, count in zip(NAMES, (kept, small, lost - small - over, over), strict=True):
            self._counts[name] += count
        self._window = [a + b for a, b in zip(self._window, (1, kept + lost, small), strict=True)]
        steps, boxes, small = self._window
        if steps < self._steps or boxes < _LEAST:
            return None
        self._window = [0, 0, 0]
        if 2 * small <= boxes:
            return None
        return (
            f"{small} of the {boxes} boxes of {steps} training steps have a side under data.min_box_side="
            f"{self._min_box_side:g} pixels as the network sees them, and do not train: either the boxes are not in"
            " pixels (fractions of the picture?), or config.data.canvases and short_side are too small for them"
            " (python -m dyhead_jax.data show draws them); config.data.min_box_side=0 trains on all"
        )

    def state(self) -> dict[str, int]:
        """The counts by NAMES, as JSON."""
        return dict(self._counts)

    def set_state(self, state: Any) -> None:
        """Continues from `state`, or anew where there is none, as in runs of earlier versions."""
        state = state if isinstance(state, dict) else {}
        self._counts = {name: state[name] if isinstance(state.get(name), int) else 0 for name in NAMES}
        self._window = [0, 0, 0]


def describe(counts: dict[str, int]) -> str:
    """The counts as one line for people."""
    small, cut, over = (counts[name] for name in NAMES[1:])
    reasons = ((small, "too small"), (cut, "cut away"), (over, "beyond data.max_boxes"))
    words = ", ".join(f"{count} {reason}" for count, reason in reasons if count)
    return f"{counts['boxes']} boxes trained, {small + cut + over} left out" + (f": {words}" if words else "")
