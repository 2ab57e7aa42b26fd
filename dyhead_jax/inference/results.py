"""What a prediction leaves in its folder: COCO results, a table, the list of what was seen, and names for pictures.

Coordinates: bbox is (x, y, width, height), the table has x1, y1, x2, y2; pixels of the upright picture, continuous.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dyhead_jax import command
from dyhead_jax.files import write_atomic
from dyhead_jax.inference.inputs import LISTING, PredictError, drawn_before, is_listed, is_video
from dyhead_jax.inference.objects import FoundObjects

WRITTEN = ("detections.json", "detections.csv", LISTING)
LONGEST_STEM = 230  # bytes of an input's name that its picture's name has; file systems allow 255 in all
COLUMNS = ("file_name", "frame", "image_id", "category_id", "name", "score", "x1", "y1", "x2", "y2")


def output_names(paths: Sequence[Path], folder: Path) -> list[str]:
    """The name of each input's picture or video in `folder`: <stem>_boxes.jpg or .mp4, with a number added if an
    earlier one or an input file has that name, or a file there that no prediction drew. Long stems are cut."""
    taken = {str(command.real(path)).casefold() for path in paths}
    drawn = drawn_before(folder)
    names = []
    for path in paths:
        suffix = ".mp4" if is_video(path) else ".jpg"
        stem = path.stem
        while len(os.fsencode(stem)) > LONGEST_STEM:
            stem = stem[:-1]
        number, name = 1, f"{stem}_boxes{suffix}"
        while str(command.real(folder / name)).casefold() in taken or (name not in drawn and (folder / name).exists()):
            number += 1
            name = f"{stem}_boxes_{number}{suffix}"
        taken.add(str(command.real(folder / name)).casefold())
        names.append(name)
    return names


def check_writable(paths: Sequence[Path], folder: Path) -> None:
    """Raises PredictError where a file that `Results.write` writes is an input, or there and not of a prediction."""
    inputs = {command.real(path) for path in paths}
    for name in WRITTEN:
        if command.real(folder / name) in inputs:
            raise PredictError(f"{folder / name}: is an input file and would be overwritten; give another folder")
        if (folder / name).exists() and not is_listed(folder):
            raise PredictError(f"{folder / name}: exists and is not of a prediction; give another folder")


@dataclass
class Results:
    """Collects what is found.

    results: COCO results with `file_name`, and `frame` (from 0) in a video. images: for each picture or frame id,
    file_name, height, width, frame, and `picture`, the file with its boxes, or None.
    """

    class_names: Sequence[str]
    category_ids: Sequence[int]
    results: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def add(
        self, path: Path, image_id: int, found: FoundObjects, picture: str | None, frame: int | None = None
    ) -> None:
        """frame: number of the video's frame, from 0; None for a picture."""
        more = {"file_name": str(path)} if frame is None else {"file_name": str(path), "frame": frame}
        own = found.to_coco(image_id)
        self.results += [{**result, **more} for result in own]
        self.images.append({"id": image_id, **more, "height": found.height, "width": found.width, "picture": picture})
        for result, one in zip(own, found, strict=True):
            shown = [f"{value:.2f}" for value in one.box]
            number = "" if frame is None else frame
            self.rows.append((str(path), number, image_id, result["category_id"], one.name, f"{one.score:.4f}", *shown))

    def forget_picture(self, name: str) -> None:
        """Says of no image that its boxes are drawn in the file `name`, which could not be written."""
        for image in self.images:
            if image["picture"] == name:
                image["picture"] = None

    def write(self, folder: Path) -> None:
        """detections.json, a list of COCO results; detections.csv, the same as a table; images.json, the COCO object
        that they refer to, with all pictures that were ever written here as `pictures`."""
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(COLUMNS)
        writer.writerows(self.rows)
        categories = [{"id": i, "name": name} for i, name in zip(self.category_ids, self.class_names, strict=True)]
        written = {image["picture"] for image in self.images} - {None}
        earlier = {name for name in drawn_before(folder) if (folder / name).is_file()}
        listing = {
            "images": self.images,
            "annotations": [],
            "categories": categories,
            "pictures": sorted(written | earlier),
        }
        write_atomic(folder / "detections.json", json.dumps(self.results).encode())
        # names that are not UTF-8 become the bytes that they are
        write_atomic(folder / "detections.csv", table.getvalue().encode("utf-8", "surrogateescape"))
        write_atomic(folder / LISTING, json.dumps(listing, indent=1).encode())
