"""The data: `config.data`, and choices for `config.data.source`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from dyhead_jax.config.nodes import Parent


@dataclass(slots=True, kw_only=True)
class ShapesConfig:
    """Drawn shapes: needs no files; written to an array_record data set on first use."""

    module: str = "dyhead_jax.data.shapes:Shapes"
    root: str = ""  # folder of the data set; "" is <workdir>/data
    train_images: int = 2000
    val_images: int = 200
    size: int = 160  # side of the square pictures in pixels
    seed: int = 0


@dataclass(slots=True, kw_only=True)
class PhotosConfig:
    """A folder of photographs with COCO JSON, YOLO or Pascal VOC annotations, found by looking."""

    module: str = "dyhead_jax.data.photos:Photos"
    root: str = ""  # the folder; the four paths below are relative to it, or absolute
    annotations: str = ""  # COCO .json, YOLO data.yaml, or the folder of the YOLO .txt or VOC .xml files; "" looks
    images: str = ""  # the folder of the images; "" looks
    val_annotations: str = ""  # a second COCO .json, of the images to validate with, beside `annotations`
    val_images: str = ""  # the folder of its images; "" looks
    val_fraction: float = 0.2  # of the images, where the folder has no validation part; by a hash of their names
    class_names: tuple[str, ...] = ()  # of YOLO labels without data.yaml or classes.txt, by class number
    limit: int = 0  # use only the first images of each split, this many; 0 is all
    box_frame: str = ""  # boxes are of the picture "stored", "upright" (EXIF) or "declared" (size); "" finds out


@dataclass(slots=True, kw_only=True)
class CocoFolderConfig:
    """Any folder with COCO-JSON annotations."""

    module: str = "dyhead_jax.data.coco_folder:CocoFolder"
    root: str = ""  # the folder; the four paths below are relative to it
    train_annotations: str = "annotations/instances_train.json"
    train_images: str = "train"
    val_annotations: str = "annotations/instances_val.json"
    val_images: str = "val"
    limit: int = 0  # use only the first images of each split, this many; 0 is all
    prepared: bool = False  # first pack the images into array_record in <workdir>/data; for slow network disks
    box_frame: str = ""  # boxes are of the picture "stored", "upright" (EXIF) or "declared" (size); "" finds out


@dataclass(slots=True, kw_only=True)
class CocoRecordsConfig:
    """COCO 2017 in array_record, from `python -m dyhead_jax.data prepare coco` or tfds' coco/2017."""

    module: str = "dyhead_jax.data.coco_records:CocoRecords"
    root: str = ""  # the prepared folder, or tfds' data_dir
    train_annotations: str = "annotations/instances_train2017.json"  # relative to root; "": boxes in the records
    val_annotations: str = "annotations/instances_val2017.json"
    limit: int = 0  # use only the first images of each split, this many; 0 is all


@dataclass(slots=True, kw_only=True)
class DataConfig(Parent):
    NODES: ClassVar = {"source": ("workdir",)}

    source: Any = field(default_factory=CocoFolderConfig)
    root: str = ""  # shorthand: if set, replaces source.root
    canvases: tuple[tuple[int, int], ...] = ((800, 1344), (1344, 800))  # (height, width) buckets
    short_side: tuple[int, ...] = (800,)  # one value, or a range (low, high) to draw from in training
    short_side_choice: bool = False  # draw one of the values of short_side instead of from the range
    long_side: int = 1333
    scale_jitter: tuple[float, float] = (1.0, 1.0)  # range of a zoom; above 1 crops, below 1 pads; large-scale: .1, 2
    color_jitter: float = 0.0  # strength of brightness, contrast, saturation changes
    flip: float = 0.5  # probability of a horizontal flip in training
    random_crop: float = 0.0  # probability of SSD's crop around at least one box, before the resizing; 0.5 is common
    blur: float = 0.0  # largest standard deviation of a Gaussian blur, in pixels
    noise: float = 0.0  # largest standard deviation of Gaussian noise, where white is 255
    mosaic: float = 0.0  # probability of four images around a point in the place of one
    copy_boxes: float = 0.0  # probability of boxes of another image pasted in, as rectangles
    mixup: float = 0.0  # probability of another image blended in, at about one half
    repeat_factor: float = 0.0  # LVIS: images with a class in less than this fraction of them repeat; 0.001 there
    batch_size: int = 16  # images per step, over all devices and hosts
    eval_batch_size: int = 8
    max_boxes: int = 100
    min_box_side: float = 1.0  # pixels after the transforms; smaller boxes do not train, and are counted
    workers: int = 0  # loader processes; 0 loads in threads of the main process
    skip_empty: bool = True  # leave images without boxes out of training and print how many
