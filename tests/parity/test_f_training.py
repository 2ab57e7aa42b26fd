"""Golden cases F: twenty steps of the real train step follow the reference's losses and gradient norms.

Under pmap the batch stands on eight devices, each image twice: sums and normalisers double alike, so the losses
stay those of the batch itself.
"""

import jax
import numpy as np
import pytest

from dyhead_jax import optim, parallel, state_dict, steps
from dyhead_jax.config import OptimConfig
from dyhead_jax.types import Batch
from tests.parity import mmdet_model
from tests.parity.goldens import cases, relative

STEPS = 20
TERMS = {"loss_cls": "loss_class", "loss_bbox": "loss_box", "loss_centerness": "loss_centerness", "loss": "loss"}


def optim_config(case) -> OptimConfig:
    """The manifest states the optimiser in words."""
    text = case.manifest["optimizer"]
    fixed = {"schedule": "constant", "warmup_steps": 0}
    if text.startswith("SGD lr 0.01 momentum 0.9 weight_decay 1e-4"):
        return OptimConfig(name="sgd", learning_rate=0.01, momentum=0.9, weight_decay=1e-4, **fixed)
    assert text.startswith("AdamW lr 1e-4 betas (.9,.999) eps 1e-8, decoupled weight_decay 0.05"), text
    return OptimConfig(name="adamw", learning_rate=1e-4, weight_decay=0.05, decay_norms=False, **fixed)


def history(case, kind: str, dtype: str = "float32"):
    """Losses and gradient norm of each step, and the parameters after the last."""
    config = case.manifest["config"]
    devices = parallel.make(kind, 8)
    model, variables = mmdet_model.load(case, config, case.under("w0/"), dtype, devices.axis_name)
    chosen = optim_config(case)
    optimizer = optim.make_optimizer(chosen, STEPS)
    schedule = optim.make_schedule(chosen, STEPS)
    step = devices.train_step(steps.make_train_step(model, optimizer, schedule, axis_name=devices.axis_name))
    batch = Batch(mmdet_model.images(case, dtype), mmdet_model.ground_truth(case, dtype))
    twice = (lambda x: np.concatenate([x, x])) if kind == "pmap" else np.asarray
    batch = jax.tree.map(twice, batch)
    state = devices.replicate(steps.create_state(model, optimizer, {"batch_stats": {}} | variables))
    batch = devices.put(batch)
    rows = []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        rows.append(devices.unreplicate(metrics))
    values = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    return values, devices.unreplicate(state).params, mmdet_model.name_table(config)


def deviations(case, values, reference: str) -> tuple[float, float]:
    """Largest relative deviation of the losses and of the gradient norm over all steps."""
    known = [name for name in TERMS if f"{reference}/{name}" in case]
    assert "loss" in known
    loss = max(np.max(np.abs(values[TERMS[n]] / case[f"{reference}/{n}"] - 1)) for n in known)
    return float(loss), float(np.max(np.abs(values["grad_norm"] / case[f"{reference}/grad_norm"] - 1)))


@pytest.mark.parametrize("kind", ["pmap", "single"])
@pytest.mark.parametrize("case", cases("F"), ids=lambda c: c.name)
def test_training_follows_the_reference(case, kind):
    values, params, table = history(case, kind)
    loss, norm = deviations(case, values, "hist")
    if loss > 2e-5 or norm > 1e-3:
        with jax.enable_x64(True):
            wide, params, _ = history(case, kind, "float64")
        loss64, norm64 = deviations(case, wide, "hist64")
        # the history is stored in float32, 6e-8 a value; next to a kink twenty steps make more of that in the gradient
        assert loss64 <= 3e-7, f"float32: {loss}; float64: {loss64}"
        assert norm64 <= 1e-6, f"float32: {loss}, {norm}; float64: {loss64}, {norm64}"
        print(f"{case.name}: a kink flips in float32 ({loss}, {norm}); the case was taken in float64")
    ends = case.under("w20/")
    assert ends
    got = state_dict.save(table, {"params": params})
    for name, expected in ends.items():
        assert relative(got[name], expected) <= 1e-4, name
