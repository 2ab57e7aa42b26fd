"""The names of the golden cases D against those that mmdetection itself gives, kept beside the cases."""

import json

import pytest

from dyhead_jax.weights import layouts, state_dict
from tests.converting import shapes_of
from tests.parity import mmdet_model
from tests.parity.goldens import Case, cases
from tests.weights.test_layouts import NAMES, hollow, stand_ins


def theirs_of(case: Case) -> dict[str, list[int]]:
    """Names and shapes of mmdetection's model of this case; {} where the file has none."""
    known = json.loads(NAMES.read_text()) if NAMES.is_file() else {}
    return next((names for model, names in known.items() if case.manifest["case"] in model), {})


CASES = [case for case in cases("D") if NAMES.is_file() and theirs_of(case)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_models_of_the_golden_cases(case: Case):
    """Names of mmdetection's RetinaNet, FCOS, RepPoints, Faster R-CNN and Swin; a ResNet's are added from our table."""
    theirs = theirs_of(case)
    model = mmdet_model.model_config(case.manifest["params"]["config"])
    shapes = shapes_of(model)
    table = layouts.detector(model, "mmdet")
    known = {k: list(v.shape) for k, v in state_dict.save(table, hollow(shapes)).items()}
    theirs = theirs | {k: v for k, v in known.items() if k.startswith("backbone.") and "backbone.layer" in k}
    theirs = theirs | {k: v for k, v in known.items() if k.startswith(("backbone.conv1", "backbone.bn1"))}
    assert layouts.detect(theirs) == "mmdet"
    found = state_dict.match(table, stand_ins(theirs), shapes)
    assert all(name.endswith("relative_position_index") for name in found.left)
    assert all("backbone/norm0" in path for path in found.kept)
    assert set(theirs) == set(found.names.values()) | set(found.left)
