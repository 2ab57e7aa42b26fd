"""What a model finds in one picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image


class FoundObject(NamedTuple):
    """One object. box: x1 y1 x2 y2 in pixels of the picture, continuous; label: index into the class names."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    label: int


@dataclass(frozen=True, eq=False, repr=False)
class FoundObjects:
    """The objects of one picture, best first.

    boxes: (n, 4) float32 x1 y1 x2 y2 in pixels of the picture, upright, continuous: the pixel in column 0 covers
    0 <= x < 1. scores: (n,) float32. labels: (n,) int32, indices into class_names and category_ids.
    image: (h, w, 3) uint8 RGB, the picture itself.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    image: np.ndarray
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.class_names[label] for label in self.labels]

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        return self.image.shape[1]

    @property
    def height(self) -> int:
        """Of the picture, in pixels."""
        return self.image.shape[0]

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[FoundObject]:
        for name, score, box, label in zip(self.names, self.scores, self.boxes, self.labels, strict=True):
            yield FoundObject(name, float(score), tuple(box.tolist()), int(label))

    def __repr__(self) -> str:
        shown = ", ".join(f"{one.name} {one.score:.2f}" for one, _ in zip(self, range(5), strict=False))
        more = f", and {len(self) - 5} more" if len(self) > 5 else ""
        number = f"{len(self) or 'no'} object{'' if len(self) == 1 else 's'}"
        return f"<{number} in {self.width}x{self.height} pixels{': ' * bool(shown)}{shown}{more}>"

    def draw(self) -> Image.Image:
        """The picture with boxes, class names and scores."""
        from dyhead_jax.data import pictures  # imports matplotlib for its font

        picture = pictures.draw(self.image, self.boxes, self.labels, self.scores, self.class_names)
        return Image.fromarray(picture)

    def save(self, path: str | Path) -> None:
        """Writes what `draw` returns as a .jpg, .png or .webp file, whole or not at all."""
        from dyhead_jax.data import pictures

        pictures.save(np.asarray(self.draw()), path)

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox (x, y, width, height) and score of each object."""
        corners = self.boxes.astype(np.float64)
        return [
            {
                "image_id": image_id,
                "category_id": int(self.category_ids[label]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(score),
            }
            for (x1, y1, x2, y2), label, score in zip(corners.tolist(), self.labels, self.scores, strict=True)
        ]

    def to_supervision(self) -> Any:
        """A `supervision.Detections`. Raises ImportError without the extra `supervision`."""
        try:
            import supervision  # type: ignore[import-not-found]
        except ImportError as error:
            message = "to_supervision needs a package that is not installed: pip install 'dyhead-jax[supervision]'"
            raise ImportError(message) from error
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, str)},
        )
