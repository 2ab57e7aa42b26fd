"""Name tables: the PyTorch names of torchvision, timm, mmdetection, detectron2, the official code, and the paths here.

Each line of a table says which name goes where and how the array is laid out; `state_dict` has the rules of reading,
`layouts` finds the table of a file and adds up that of a whole detector:

    resnet.under("backbone.", "backbone") + fpn_mmdet(3).under("neck.0.", "neck") + ...

Nothing has to be reordered in deformable convolutions: in all of these projects an offset convolution gives (dy, dx) of
each tap, taps row-major, then the masks, as it does here.
"""

from dyhead_jax.weights.names.backbones import (
    efficientnet_lite,
    resnet,
    resnet_caffe2,
    resnet_detectron2,
    swin_mmdet,
    swin_official,
    swin_timm,
    swin_torchvision,
)
from dyhead_jax.weights.names.heads import (
    atss_mmdet,
    atss_official,
    borderdet_official,
    faster_rcnn_detectron2,
    faster_rcnn_mmdet,
    fcos_mmdet,
    reppoints_mmdet,
    retinanet_detectron2,
    retinanet_mmdet,
)
from dyhead_jax.weights.names.necks import dyhead, dyhead_attentions, fpn_detectron2, fpn_mmdet
from dyhead_jax.weights.state_dict import NamesError, Rule, Table, load, save

__all__ = [
    "NamesError",
    "Rule",
    "Table",
    "atss_mmdet",
    "atss_official",
    "borderdet_official",
    "dyhead",
    "dyhead_attentions",
    "efficientnet_lite",
    "faster_rcnn_detectron2",
    "faster_rcnn_mmdet",
    "fcos_mmdet",
    "fpn_detectron2",
    "fpn_mmdet",
    "load",
    "reppoints_mmdet",
    "resnet",
    "resnet_caffe2",
    "resnet_detectron2",
    "retinanet_detectron2",
    "retinanet_mmdet",
    "save",
    "swin_mmdet",
    "swin_official",
    "swin_timm",
    "swin_torchvision",
]
