"""Tables of whole detectors: full-size models of other projects, by shapes alone."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from dyhead_jax import config
from dyhead_jax.boxes import anchors
from dyhead_jax.config import DyHeadConfig, ModelConfig, ResNetConfig
from dyhead_jax.weights import layouts, names, state_dict
from tests.converting import SMALL, shapes_of
from tests.parity.goldens import folder

NAMES = folder() / "state_dict_names.json"


needs_names = pytest.mark.skipif(not NAMES.is_file(), reason=f"no {NAMES.name} in {folder()}; set DYHEAD_GOLDENS")


def stand_ins(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Arrays of these shapes that take no memory."""
    return {name: np.broadcast_to(np.zeros((), np.float32), shape) for name, shape in shapes.items()}


def hollow(tree):
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), tree)


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def full_size(**changes) -> ModelConfig:
    """ATSS with R-50 and six blocks; the config's defaults are the official ones."""
    return dataclasses.replace(ModelConfig(backbone=ResNetConfig(style="caffe")), **changes)


def numbers(lineage: str) -> tuple[int, ...]:
    """Parameters of the whole and of a block, as docs/fidelity.md has them."""
    text = (Path(__file__).parents[2] / "docs" / "fidelity.md").read_text()
    (row,) = (line for line in text.splitlines() if re.match(rf"\| {lineage} \| [\d,]+ \|", line))
    return tuple(int(cell.replace(",", "")) for cell in row.split("|")[2:4])


MMDET = {"dyhead": DyHeadConfig(dcn_bias=False, lineage="mmdet")}


@pytest.mark.long
@needs_names
def test_full_size_mmdetection_model():
    theirs = json.loads(NAMES.read_text())["mmdet atss_r50-caffe_fpn_dyhead (full size)"]
    model = full_size(**MMDET)
    shapes = shapes_of(model)
    found = state_dict.match(layouts.detector(model, layouts.detect(theirs)), stand_ins(theirs), shapes)
    assert f"{count(shapes['params']) / 1e6:.2f}" == "38.90"
    assert numbers("mmdet") == (count(shapes["params"]), count(shapes["params"]["dyhead"]["block_0"]))
    assert set(found.left) == {name for name in theirs if name.endswith("num_batches_tracked")}
    assert not found.kept
    assert not found.constant
    assert len(found.names) + len(found.left) == len(theirs)
    back = state_dict.save(layouts.detector(model, "mmdet"), hollow(shapes))
    assert {k: list(v.shape) for k, v in back.items()} == {k: v for k, v in theirs.items() if k not in found.left}


@pytest.mark.long
@needs_names
def test_full_size_official_model():
    """The file has the names of a block, the head; those of backbone and neck are detectron2's."""
    parts = json.loads(NAMES.read_text())
    model = full_size()
    shapes = shapes_of(model)
    table = layouts.detector(model, "official")
    theirs = {k: list(v.shape) for k, v in state_dict.save(table, hollow(shapes)).items()}
    assert numbers("official") == (count(shapes["params"]), 1_917_276)
    block = parts["official DyConv block (prefix backbone.dyhead_tower.N.)"]
    for i in range(6):
        mine = {k: v for k, v in theirs.items() if k.startswith(f"backbone.dyhead_tower.{i}.")}
        assert mine == {f"backbone.dyhead_tower.{i}.{k}": v for k, v in block.items()}
        assert count(shapes["params"]["dyhead"][f"block_{i}"]) == 1_917_276
    head = parts["official ATSSHead (prefix head.)"]
    assert {k: v for k, v in theirs.items() if k.startswith("head.")} == {f"head.{k}": v for k, v in head.items()}
    rest = {k for k in theirs if not k.startswith(("backbone.dyhead_tower.", "head."))}
    assert {"backbone.backbone.bottom_up.res5.2.conv3.norm.running_var", "backbone.backbone.fpn_lateral3.bias"} <= rest
    assert "backbone.backbone.top_block.p7.weight" in rest
    theirs |= {"pixel_mean": [3, 1, 1], "anchor_generator.cell_anchors.0": [1, 4]}
    assert layouts.detect(theirs) == "official"
    found = state_dict.match(table, stand_ins(theirs), shapes)
    assert set(found.left) == {"pixel_mean", "anchor_generator.cell_anchors.0"}
    assert not found.kept


@pytest.mark.long
@needs_names
def test_official_swin():
    theirs = json.loads(NAMES.read_text())["official swint names (tiny widths; prefix backbone.backbone.bottom_up.)"]
    prefix = "backbone.backbone.bottom_up."
    found = layouts.find_backbone([prefix + name for name in theirs])
    assert (found.layout, found.prefix) == ("swin-official", prefix)
    depths = [max(int(k.split(".")[3]) for k in theirs if k.startswith(f"layers.{i}.blocks")) + 1 for i in range(4)]
    swin = config.SwinConfig(features=8, depths=tuple(depths), heads=(1, 2, 4, 8))
    shapes = shapes_of(full_size(backbone=swin))
    here = {"params": shapes["params"]["backbone"]}
    matched = state_dict.match(found.table, stand_ins(theirs), here)
    assert matched.kept == ("params/norm0/bias", "params/norm0/scale")
    assert all(name.endswith("relative_position_index") for name in matched.left)


def test_layouts_without_names_say_so():
    fcos = dataclasses.replace(SMALL, head=config.FCOSConfig())
    with pytest.raises(layouts.LayoutError, match=r"layout 'official' has no names for config\.model\.head: .*:FCOS"):
        layouts.detector(fcos, "official")
    with pytest.raises(layouts.LayoutError, match="'swin-timm' has names for a backbone only"):
        layouts.detector(SMALL, "swin-timm")


def test_anchors_of_detectron2_are_put_in_our_order():
    """Heights and widths of a cell's anchors, by detectron2's loops and by our grid, meet through the table's order."""
    octaves, ratios = 3, (0.5, 1.0, 2.0)
    theirs = []
    for octave in range(octaves):
        for ratio in ratios:
            width = np.sqrt((32 * 2 ** (octave / 3)) ** 2 / ratio)
            theirs.append((ratio * width, width))
    scales = tuple(4 * 2 ** (octave / 3) for octave in range(octaves))
    (ours,) = anchors.anchors([(1, 1)], (8,), scales, ratios)
    sizes = np.stack([ours[:, 3] - ours[:, 1], ours[:, 2] - ours[:, 0]], axis=1)
    rule = next(r for r in names.retinanet_detectron2(4, octaves, len(ratios)).rules if r.source == "cls_score.weight")
    np.testing.assert_allclose(sizes, np.array(theirs)[list(rule.order)], rtol=1e-5)
    kernel = np.arange(9 * 5 * 2, dtype=np.float32).reshape(9 * 5, 2, 1, 1)  # five classes
    table = names.Table((rule,))
    got = names.load(table, {"cls_score.weight": kernel})
    np.testing.assert_array_equal(
        got["params"]["class_predictor"]["kernel"][0, 0].T.reshape(9, 5, 2), kernel.reshape(9, 5, 2)[list(rule.order)]
    )
    np.testing.assert_array_equal(names.save(table, got)["cls_score.weight"], kernel)


def test_torchvisions_faster_rcnn_gives_its_backbone():
    """Its roi_heads are none of detectron2's."""
    inner = {name: tree["backbone"] for name, tree in shapes_of(SMALL).items()}
    backbone = state_dict.save(layouts.BACKBONES["resnet"][1], hollow(inner))
    others = ("backbone.fpn.inner_blocks.0.0.weight", "rpn.head.conv.0.0.weight", "rpn.head.cls_logits.weight")
    others += ("roi_heads.box_head.fc6.weight", "roi_heads.box_predictor.cls_score.weight")
    file = {f"backbone.body.{name}": array for name, array in backbone.items()} | dict.fromkeys(others, np.zeros(1))
    assert layouts.detect(file) == "resnet"
    found = layouts.find_backbone(file)
    assert (found.layout, found.prefix) == ("resnet", "backbone.body.")
    assert layouts.detect({"proposal_generator.rpn_head.conv.weight": 0, **file}) == "official"
