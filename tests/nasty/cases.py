"""Files that are wrong in one way each, and what must happen to them.

The set is the folder that DYHEAD_NASTY names, or shared/data/nasty beside the repository; where neither is, the small
part of it in tests/nasty/files. Its manifest.json lists the files. Reactions: None is without a word; "note: ..." goes
on with a note of that text; a number is the AP; anything else is part of an error of one line.
"""

import json
import os
from pathlib import Path

from tests.data.folders import SHARED

_COMMITTED = Path(__file__).parent / "files"
_CHOICES = (Path(os.environ.get("DYHEAD_NASTY", SHARED / "nasty")).absolute(), _COMMITTED)
FOLDER = next(folder for folder in _CHOICES if (folder / "manifest.json").is_file())

BROKEN = "broken|empty|cannot be opened"
EITHER = {"corrupt_middle.jpg"}  # a decoder may or may not notice random bytes

IMAGES: dict[str, str | None] = {
    "ok_rgb.jpg": None,
    "ok_rgb.png": None,
    "truncated_header.jpg": BROKEN,
    "zero_byte.jpg": BROKEN,
    "corrupt_middle.jpg": BROKEN,
    "trailing_garbage.jpg": None,
    "gray.jpg": None,
    "gray16.png": None,
    "progressive.jpg": None,
    "cmyk.jpg": None,
    "näme with spaces (1).jpg": None,
    "png_named.jpg": None,
    "rgb16.png": None,
    "rgba.png": None,
    "palette.png": None,
    "palette_transparent.png": None,
    "png_bad_crc.png": BROKEN,
    "exif_orientation_3.jpg": None,
    "exif_orientation_8.jpg": None,
    "wide_4000x8.jpg": None,
    "one_pixel.png": None,
    "one_pixel.jpg": None,
    "animated.gif": None,
    "ok.webp": None,
}

ANNOTATIONS: dict[str, str | None] = {
    "00_good": None,
    "crowd_boxes": None,
    "only_crowd_in_image": "note: 1 of 4 images have no box",
    "zero_area": "note: 3 boxes without width or height",
    "tiny_boxes": "note: 2 boxes have a side under one pixel",
    "negative_coords": "note: clipped",
    "fully_outside": "note: 1 boxes wholly outside",
    "box_equals_image": None,
    "path_traversal": r"images\[\d\]\.file_name .* leads out",
    "absolute_path": r"images\[\d\]\.file_name .* leads out",
    "mixed_modes": None,
    "declared_size_wrong": "note: 1 images declare width and height in each other's place",
    "duplicate_image_ids": r"images\[1\]\.id 1",
    "duplicate_annotation_ids": "note: 1 annotation ids",
    "duplicate_boxes": None,
    "noncontiguous_categories": None,
    "unknown_category_id": r"annotations\[\d\]\.category_id",
    "duplicate_category_ids": r"categories\[1\]\.id 1",
    "unicode_category": None,
    "empty_categories": "categories is empty",
    "no_annotations_at_all": "note: 4 of 4 images",
    "orphan_annotation": r"annotations\[\d\]\.image_id",
    "float_strings": r"annotations\[\d\]\.bbox",
    "string_ids": r"images\[0\]\.id",
    "inf_bbox": r"annotations\[\d\]\.bbox",
    "huge_ids": None,
    "bbox_three_numbers": r"annotations\[\d\]\.bbox",
    "bbox_null": r"annotations\[\d\]\.bbox",
    "missing_images": "'images'",
    "missing_annotations": "'annotations'",
    "missing_ann_bbox": r"annotations\[0\] has no key 'bbox'",
    "missing_ann_category_id": r"annotations\[0\] has no key 'category_id'",
    "missing_ann_id": r"annotations\[0\] has no key 'id'",
    "missing_ann_iscrowd": None,
    "missing_image_file_name": r"images\[0\]\.file_name",
    "missing_image_id": r"images\[0\] has no key 'id'",
    "many_boxes": None,
    "wrong_area": None,
    "top_level_list": "holds a list",
    "empty_object": "'images'",
    "truncated_json": "is not JSON",
    "utf8_bom": None,
}

RESULTS: dict[str, str | float] = {
    "00_perfect": 1.0,
    "empty": 0.0,
    "unknown_category": "record 0 has category_id 77, which the ground truth lacks",
    "nan_score": "record 0 has score nan",
    "missing_score": "record 0 has no key 'score'",
    "tied_scores": 1.0,
    "duplicates": 0.7124,
    "over_100_per_image": 0.5110,
}


def there(kind: str) -> list[Path]:
    """The files of a kind ("images", "annotations", "results") that the manifest lists."""
    return [FOLDER / case["file"] for case in json.loads((FOLDER / "manifest.json").read_text("utf-8"))[kind]]
