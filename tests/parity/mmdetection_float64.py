"""Runs mmdetection itself on golden cases F, in float64 throughout; writes `float64_histories.json` beside this file.

A golden file's `hist64` is stored in float32, and mmdetection computes parts of it in float32 whatever the model's
type: anchors, box predictions and targets, the labels of binary cross-entropies. Here those casts are no-ops, so that
a history in float64 can be followed to float64's own precision. It also prints how far the run with the casts left in
is from `hist64`: that is what storing it and another kernel of the deformable convolution make.

    python3.11 -m venv V
    V/bin/pip install torch==2.14.1 torchvision==0.29.1 mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7
    V/bin/python tests/parity/mmdetection_float64.py FOLDER_OF_GOLDENS

mmcv's compiled operators are not needed: the deformable convolution is torchvision's, given the offsets as mmcv's reads
them. Not part of the test run, which needs no PyTorch.
"""

import argparse
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
import torchvision

OUT = Path(__file__).with_name("float64_histories.json")
TERMS = ("loss_cls", "loss_bbox", "loss_centerness")


class ModulatedDeformConv2d(torch.nn.Module):
    """mmcv's layer of this name, without groups."""

    def __init__(self, inputs, outputs, kernel, stride=1, padding=0, bias=True):
        super().__init__()
        self.stride, self.padding = (stride, stride), padding  # mmdetection's DyHead looks at the stride
        self.weight = torch.nn.Parameter(torch.zeros(outputs, inputs, kernel, kernel))
        self.bias = torch.nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x, offset, mask):
        kernel = self.weight.shape[-1]
        size = [(n + 2 * self.padding - kernel) // s + 1 for n, s in zip(x.shape[2:], self.stride, strict=True)]
        # mmcv walks each image's offsets with the output's strides, whatever their own size
        reread = lambda maps: maps.flatten(1)[:, : maps.shape[1] * size[0] * size[1]].unflatten(1, (-1, *size))  # noqa: E731
        return torchvision.ops.deform_conv2d(
            x, reread(offset), self.weight, self.bias, self.stride, self.padding, mask=reread(mask)
        )


def stand_in_for_operators() -> None:
    """`mmcv.ops` without compiled code: this layer, and for every other name an empty class that is never built."""

    def attribute(name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return ModulatedDeformConv2d if name == "ModulatedDeformConv2d" else type(name, (torch.nn.Module,), {})

    parts = (
        "modulated_deform_conv",
        "deform_conv",
        "multi_scale_deform_attn",
        "nms",
        "roi_align",
        "carafe",
        "merge_cells",
    )
    for name in ("", *(f".{part}" for part in parts)):
        module = types.ModuleType(f"mmcv.ops{name}")
        module.__getattr__ = attribute  # type: ignore[method-assign]
        module.__path__ = []
        sys.modules[module.__name__] = module


def without_casts() -> None:
    """From here on `.float()`, `torch.float` and anchors are float64."""
    from mmdet.models.task_modules.prior_generators import AnchorGenerator

    grid = AnchorGenerator.grid_priors
    AnchorGenerator.grid_priors = lambda self, sizes, dtype=None, device="cpu": grid(self, sizes, torch.float64, device)
    torch.Tensor.float = lambda self, *_, **__: self.double()  # type: ignore[method-assign]
    torch.float = torch.float64


def optimizer(text: str, model: torch.nn.Module) -> torch.optim.Optimizer:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if text == "SGD lr 0.01 momentum 0.9 weight_decay 1e-4":
        return torch.optim.SGD(named.values(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    assert text.startswith("AdamW lr 1e-4 betas (.9,.999) eps 1e-8, decoupled weight_decay 0.05; "), text
    assert "name contains 'norm'" in text, text
    norms = [p for name, p in named.items() if "norm" in name]
    others = [p for name, p in named.items() if "norm" not in name]
    return torch.optim.AdamW(
        [{"params": others, "weight_decay": 0.05}, {"params": norms, "weight_decay": 0.0}], lr=1e-4
    )


def history(manifest: dict, arrays: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Losses and gradient norm of every step."""
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    model = MODELS.build(dict(manifest["config"]))
    start = {name[3:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("w0/")}
    model.load_state_dict(start)
    model.double().train()
    samples = []
    for i, meta in enumerate(manifest["metas"]):
        sample = DetDataSample(metainfo=meta)
        boxes, labels = (torch.from_numpy(arrays[f"gt/{i}.{name}"]) for name in ("bboxes", "labels"))
        sample.gt_instances = InstanceData(bboxes=boxes.float(), labels=labels.long())
        samples.append(sample)
    images = torch.from_numpy(arrays["in/img"]).double()
    trained = [p for p in model.parameters() if p.requires_grad]
    update = optimizer(manifest["optimizer"], model)
    rows: dict[str, list[float]] = {name: [] for name in (*TERMS, "loss", "grad_norm")}
    for _ in range(len(arrays["hist/loss"])):
        update.zero_grad()
        terms = {
            name: sum(value) if isinstance(value, list) else value
            for name, value in model.loss(images, samples).items()
        }
        loss = sum(terms[name] for name in TERMS)
        loss.backward()
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in trained if p.grad is not None))
        for name, value in (terms | {"loss": loss, "grad_norm": norm}).items():
            rows[name].append(value.item())
        update.step()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    stand_in_for_operators()
    import mmdet
    import mmdet.models
    from mmengine.registry import DefaultScope

    DefaultScope.get_instance("float64", scope_name="mmdet")
    cases = [(json.loads(path.read_text()), path.with_suffix(".npz")) for path in sorted(folder.glob("F*.json"))]
    loaded = [(manifest, dict(np.load(path, allow_pickle=False))) for manifest, path in cases]

    def compare(title: str, manifest: dict, arrays: dict, rows: dict) -> None:
        far = [
            np.max(np.abs(rows[name] / arrays[f"hist64/{name}"].astype(float) - 1)) for name in ("loss", "grad_norm")
        ]
        print(f"{manifest['case']}, {title}: loss within {far[0]:.1e} of hist64, gradient norm {far[1]:.1e}")

    for manifest, arrays in loaded:
        compare("casts left in", manifest, arrays, history(manifest, arrays))
    without_casts()
    histories = {}
    for manifest, arrays in loaded:
        rows = history(manifest, arrays)
        compare("float64 throughout", manifest, arrays, rows)
        histories[manifest["case"]] = {"seed_used": manifest["seed_used"]} | rows
    made = f"mmdetection {mmdet.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    OUT.write_text(json.dumps({"made_with": made} | histories, indent=1) + "\n")


if __name__ == "__main__":
    main()
