"""Golden cases D that start at `dyhead/`: the head's raw maps, losses and detections from the given pyramid, and the
pyramid from the image."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax import names
from dyhead_jax.types import Detections, GroundTruth
from tests.parity import mmdet_model
from tests.parity.goldens import Case, cases, nhwc, relative


@dataclass(frozen=True)
class Run:
    case: Case
    model: Any
    variables: Any
    truth: GroundTruth
    from_image: list[jax.Array]  # pyramid behind DyHead, by our own backbone, neck and DyHead
    maps: dict[str, list[jax.Array]]  # raw predictions, from the given pyramid
    losses: dict[str, jax.Array]
    found: Detections

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [x.shape[1:3] for x in self.maps["class"]]


def of_type(detector: str) -> list[Case]:
    return [c for c in cases("D") if c.manifest["params"].get("config", {}).get("type") == detector]


def pyramid(case: Case) -> list[jax.Array]:
    """The given maps behind DyHead, fine to coarse."""
    levels = sorted(int(k.removeprefix("dyhead/p")) for k in case.arrays if k.startswith("dyhead/p"))
    return [jnp.asarray(nhwc(case[f"dyhead/p{level}"])) for level in levels]


def run(case: Case) -> Run:
    model, variables = mmdet_model.load(case, case.manifest["params"]["config"], case.under("w/"))
    truth = mmdet_model.ground_truth(case)

    @jax.jit
    def everything(variables, images, given, truth):
        from_image = model.apply(variables, images, truth.sizes, method="features")["dyhead"]
        maps = model.apply(variables, given, method="predict")
        losses = model.apply(variables, maps, truth, method="losses_from_maps")
        return from_image, maps, losses, model.apply(variables, maps, truth.sizes, method="detect_from_maps")

    results = everything(variables, mmdet_model.images(case), pyramid(case), truth)
    return Run(case, model, variables, truth, *results)


def check_pyramid(run: Run) -> None:
    for got, expected in zip(run.from_image, pyramid(run.case), strict=True):
        assert relative(got, expected) <= 1e-4


def check_names(run: Run) -> None:
    """The weights go back to the names and layouts they came from."""
    table = mmdet_model.name_table(run.case.manifest["params"]["config"])
    back = names.save(table, run.variables)
    for name, value in run.case.under("w/").items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back[name], value, err_msg=name)


def check_maps(run: Run, prefix: str, ours: dict[str, str]) -> None:
    """ours: their name to ours."""
    checked = 0
    for key, value in run.case.under(prefix).items():
        name, level = key.split(".")
        assert relative(run.maps[ours[name]][int(level)], nhwc(value)) <= 1e-4, key
        checked += 1
    assert checked == len(ours) * len(run.shapes)


def expected_loss(case: Case, name: str) -> float:
    """A loss of the case, summed over levels where it comes by level."""
    values = [v for k, v in case.under("loss/").items() if k == name or k.startswith(name + ".")]
    assert values, f"the case has no loss {name}"
    return float(sum(np.asarray(v, np.float64) for v in values))


def check_assignment(match: jax.Array, valid: jax.Array, expected: list[np.ndarray]) -> None:
    """expected: for each image the assigner's gt_inds (-1 ignored, 0 negative, k + 1 box k) of the valid priors."""
    valid = np.broadcast_to(np.asarray(valid), match.shape)
    for got, takes_part, theirs in zip(np.asarray(match), valid, expected, strict=True):
        np.testing.assert_array_equal(got[takes_part] + 1, theirs)
        assert (got[~takes_part] < 0).all()


def check_detections(run: Run) -> None:
    case, found = run.case, run.found
    for i in range(found.boxes.shape[0]):
        real = np.asarray(found.scores[i]) > 0
        np.testing.assert_array_equal(np.asarray(found.labels[i])[real], case[f"det.{i}.labels"])
        np.testing.assert_allclose(np.asarray(found.boxes[i])[real], case[f"det.{i}.bboxes"], atol=0.01)
        np.testing.assert_allclose(np.asarray(found.scores[i])[real], case[f"det.{i}.scores"], atol=1e-4)
