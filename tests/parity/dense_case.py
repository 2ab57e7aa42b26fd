"""Golden cases D of one-stage detectors: the head's raw maps, losses, targets and detections from the given pyramid,
and the pyramids from the image. Cases that begin at `dyhead/` and cases with the backbone's maps are alike here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.boxes import geometry
from dyhead_jax.training import steps
from dyhead_jax.types import Detections, GroundTruth
from dyhead_jax.weights import names
from tests.parity import mmdet_model
from tests.parity.detections import check_same
from tests.parity.goldens import Case, cases, nhwc, relative

PYRAMIDS = {"backbone": "backbone/c*", "neck": "fpn/p*", "dyhead": "dyhead/p*"}  # our name to theirs


@dataclass(frozen=True)
class Run:
    case: Case
    model: Any
    variables: Any
    truth: GroundTruth
    from_image: dict[str, list[jax.Array]]  # pyramids by our own backbone, neck and DyHead
    maps: dict[str, list[jax.Array]]  # raw predictions, from the given pyramid
    losses: dict[str, jax.Array]
    found: Detections

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [x.shape[1:3] for x in self.maps["class"]]


def of_type(detector: str) -> list[Case]:
    return [case for case in cases("D") if case.detector == detector]


def run(case: Case) -> Run:
    model, variables = mmdet_model.load(case, case.params["config"], case.under("w/"))
    truth = mmdet_model.ground_truth(case)
    check_padding(case, model.pad_divisor)
    given = [jnp.asarray(nhwc(x)) for x in case.numbered(PYRAMIDS["dyhead"])]

    @steps.jit_once
    def everything(variables, images, given, truth):
        features = model.apply(variables, images, truth.sizes, method="features")
        maps = model.apply(variables, given, method="predict")
        losses = model.apply(variables, maps, truth, method="losses_from_maps")
        found = model.apply(variables, maps, truth.sizes, method="detect_from_maps")
        return {name: features[name] for name in PYRAMIDS}, maps, losses, found

    results = everything(variables, mmdet_model.images(case), given, truth)
    return Run(case, model, variables, truth, *results)


def check_padding(case: Case, divisor: int) -> None:
    """The images' own padding, which says what takes part, is what we take it for."""
    np.testing.assert_array_equal(-(-case["in/img_shape"] // divisor) * divisor, case["in/pad_shape"])


def check_pyramids(run: Run) -> None:
    """Those that the case has: some begin at DyHead."""
    for ours, theirs in PYRAMIDS.items():
        if not run.case.numbers(theirs):
            assert ours != "dyhead"
            continue
        for got, expected in zip(run.from_image[ours], run.case.numbered(theirs), strict=True):
            assert relative(got, nhwc(expected)) <= 1e-4, ours


def check_names(run: Run) -> None:
    """The weights go back to the names and layouts they came from."""
    table = mmdet_model.name_table(run.case.params["config"])
    back = names.save(table, run.variables)
    for name, value in run.case.under("w/").items():
        if value.dtype.kind == "f":  # counters and Swin's table of indices are no weights
            np.testing.assert_array_equal(back[name], value, err_msg=name)


def check_maps(run: Run, prefix: str, ours: dict[str, str]) -> None:
    """ours: their name to ours. Every map of the case below `prefix`."""
    checked = 0
    for key, value in run.case.under(prefix).items():
        name, level = key.split(".")
        assert relative(run.maps[ours[name]][int(level)], nhwc(value)) <= 1e-4, key
        checked += 1
    assert checked == len(ours) * len(run.shapes)


def check_losses(run: Run, ours: dict[str, str]) -> None:
    """ours: their name to ours; a loss that comes by level is the sum of its levels."""
    for name, mine in ours.items():
        values = [v for k, v in run.case.under("loss/").items() if k == name or k.startswith(name + ".")]
        assert values, f"{run.case.name} has no loss {name}"
        assert relative(run.losses[mine], sum(np.asarray(v, np.float64) for v in values)) <= 1e-4, name


def check_assignment(match, valid, expected: list[np.ndarray]) -> None:
    """expected: for each image the assigner's gt_inds (-1 ignored, 0 negative, k + 1 box k) of the valid priors."""
    valid = np.broadcast_to(np.asarray(valid), match.shape)
    for got, takes_part, theirs in zip(np.asarray(match), valid, expected, strict=True):
        np.testing.assert_array_equal(got[takes_part] + 1, theirs)
        assert (got[~takes_part] < 0).all()


def check_overlaps(priors, match, valid, truth: GroundTruth, expected: list[np.ndarray], of_match: bool) -> None:
    """The assigner's max_overlaps of the valid priors (n, 4) or (b, n, 4): with all boxes (MaxIoU), or `of_match` with
    the matched one, and a mark below 0 where there is none (ATSS)."""
    for i, theirs in enumerate(expected):
        prior = np.asarray(priors if np.ndim(priors) == 2 else priors[i])
        here, index = np.broadcast_to(np.asarray(valid), match.shape)[i], np.asarray(match[i])
        overlap = np.asarray(geometry.pairwise_iou(prior, truth.boxes[i])) * np.asarray(truth.mask[i])[None]
        if of_match:
            assert (theirs[index[here] < 0] <= 0).all()
            here = here & (index >= 0)
            theirs, overlap = theirs[theirs > 0], overlap[np.arange(len(index)), np.maximum(index, 0)]
        else:
            overlap = overlap.max(axis=1)
        np.testing.assert_allclose(overlap[here], theirs, rtol=1e-4, atol=1e-5)


def check_targets(
    case: Case, prefix: str, match, valid, truth: GroundTruth, background: int, boxes_of: Callable, atol: float = 0.01
) -> None:
    """Labels, their weights, box targets and weights, of whichever the case has, and the number of positives.

    Levels come apart, images stacked; priors in the padding have weight 0. boxes_of(image, positives, boxes): the
    targets of those positives, whose matched boxes are `boxes`.
    """
    levels = [f"{prefix}{{}}.{n}" for n in case.numbers(f"{prefix}labels.*")]

    def joined(name: str) -> np.ndarray | None:
        found = [case[level.format(name)] for level in levels if level.format(name) in case]
        return np.concatenate(found, axis=1) if found else None

    names = ("labels", "label_weights", "bbox_targets", "bbox_gt", "bbox_weights")
    labels, weights, *targets, box_weights = (joined(name) for name in names)
    valid = np.broadcast_to(np.asarray(valid), match.shape)
    for i in range(len(match)):
        index, mask = np.asarray(match[i]), np.asarray(truth.mask[i])
        positive = valid[i] & (index >= 0)
        own = np.where(positive, np.asarray(truth.labels[i])[np.maximum(index, 0)], background)
        assert labels is not None
        np.testing.assert_array_equal(own, labels[i])
        if weights is not None:
            np.testing.assert_array_equal(weights[i] > 0, valid[i] & (index > -2))
        if box_weights is not None:
            np.testing.assert_array_equal(box_weights[i] > 0, np.repeat(positive[:, None], 4, axis=1))
        expected = boxes_of(i, positive, truth.boxes[i][index[positive]])
        for target in targets:
            if target is not None:
                np.testing.assert_allclose(expected, target[i][positive], atol=atol)
                assert not target[i][~positive].any()
        assert mask[index[positive]].all()
    if f"{prefix}avg_factor" in case:  # an image without positives counts as one
        positives = np.sum((np.asarray(match) >= 0) & valid, axis=1)
        assert np.sum(np.maximum(positives, 1)) == case[f"{prefix}avg_factor"]


def check_detections(case: Case, found: Detections) -> None:
    """In pixels of the padded input, and where the case has them, of the original image."""
    for i in range(found.boxes.shape[0]):
        real = np.asarray(found.scores[i]) > 0
        boxes, scores, labels = (np.asarray(x[i])[real] for x in (found.boxes, found.scores, found.labels))
        by_input = {"det": np.ones(2, np.float32)}
        if case.has("det_rescaled."):
            by_input["det_rescaled"] = np.float32(case.manifest["metas"][i]["scale_factor"])
        for name, scale in by_input.items():
            expected = tuple(case[f"{name}.{i}.{part}"] for part in ("bboxes", "scores", "labels"))
            check_same((boxes / np.tile(scale, 2), scores, labels), expected, 0.01 / scale.min())
