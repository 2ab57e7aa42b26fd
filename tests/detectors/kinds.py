"""All detectors, small."""

from dyhead_jax.detectors.atss import ATSS
from dyhead_jax.detectors.borderdet import BorderDet
from dyhead_jax.detectors.faster_rcnn import FasterRCNN
from dyhead_jax.detectors.fcos import FCOS
from dyhead_jax.detectors.reppoints import RepPoints
from dyhead_jax.detectors.retinanet import RetinaNet

LIMITS = {"level_limits": (32.0, 64.0)}
KINDS = {
    "atss": (ATSS, {"towers": 1, "norm_groups": 4}),
    "retinanet": (RetinaNet, {"towers": 1}),
    "fcos": (FCOS, {"towers": 1, "norm_groups": 4} | LIMITS),
    "reppoints": (RepPoints, {"towers": 1, "norm_groups": 4, "grid_start": 2.0}),
    "borderdet": (
        BorderDet,
        {
            "towers": 1,
            "norm_groups": 4,
            "border_class_features": 6,
            "border_box_features": 4,
            "pool_size": 3,
            "border_iou": 0.2,
        }
        | LIMITS,
    ),
    "faster_rcnn": (
        FasterRCNN,
        {
            "anchor_scale": 2.0,
            "rpn_features": 16,
            "proposals_before": (40, 30),
            "proposals": (24, 20),
            "roi_levels": 2,
            "roi_size": 3,
            "fc_features": 12,
        },
    ),
}
DENSE = [kind for kind in KINDS if kind != "faster_rcnn"]
