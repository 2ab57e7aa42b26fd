"""PyTorch's side: the operator and a DyHead block on `torchvision.ops.deform_conv2d`.

Arrays come in and go out as NumPy float32 in this package's layout, (b, h, w, c) with offsets (b, h, w, 9, 2); in
between they are (b, c, h, w) with offsets (b, 18, h, w), as PyTorch has them. The conversions are not timed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Tensors = list[torch.Tensor]
KINDS = ("mid", "low", "high")  # deformable convolutions of a level's own map, the finer and the coarser one


@dataclass
class Finished:
    """Tensors that `jax.block_until_ready` waits for."""

    tensors: Tensors

    def block_until_ready(self) -> "Finished":
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return self


@dataclass
class Computation:
    """forward: returns the results; inputs: what gradients are taken of; back, back_gradients: what makes the results,
    and those of the gradients that are compared, arrays in this package's layout."""

    forward: Callable[[], Tensors]
    inputs: Tensors
    back: Callable[[Tensors], list[np.ndarray]]
    back_gradients: Callable[[Tensors], list[np.ndarray]]

    def run(self) -> Finished:
        with torch.no_grad():
            return Finished(self.forward())

    def run_with_gradients(self) -> Finished:
        """The gradients of the sum of squares of all results, as `timing.with_gradients` takes them."""
        total = sum(y.float().square().sum() for y in self.forward())
        return Finished(list(torch.autograd.grad(total, self.inputs)))  # type: ignore[arg-type]


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products on the card may be rounded to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def operator(arrays: Sequence[np.ndarray], dtype: str, inside: str) -> Computation:
    """The 3x3 convolution of stride 1, padded by one. arrays: map, offsets, mask, kernel (3, 3, c_in, c_out).

    dtype: of all tensors; inside: that torchvision computes in, casts included where it differs.
    """
    x, offsets, mask, kernel = arrays
    flat = offsets.reshape(*offsets.shape[:3], -1)
    inputs = tensors([nchw(x), nchw(flat), nchw(mask), oihw(kernel)], dtype)
    outer, inner = getattr(torch, dtype), getattr(torch, inside)

    def forward() -> Tensors:
        x, offsets, mask, kernel = (t.to(inner) for t in inputs)
        return [deform_conv2d(x, offsets, kernel, padding=1, mask=mask).to(outer)]

    def back_gradients(found: Tensors) -> list[np.ndarray]:
        dx, doffsets, dmask, dkernel = (numpy(t) for t in found)
        return [nhwc(dx), nhwc(doffsets).reshape(offsets.shape), nhwc(dmask), hwio(dkernel)]

    return Computation(forward, inputs, maps_back, back_gradients)


def block(params: dict[str, Any], pyramid: Sequence[np.ndarray], dtype: str, inside: str) -> Computation:
    """A DyHead block in the official form, its offsets of the coarser neighbour read as from a flat buffer.

    params: of one `DyHeadBlock`, a tree of float32 arrays. dtype: of the maps; inside: that the deformable convolutions
    compute in. Norms and the means over maps are float32. Gradients are taken of the pyramid and all parameters; those
    of the pyramid and the three deformable kernels are compared.
    """
    outer, inner = getattr(torch, dtype), getattr(torch, inside)
    spatial = params["spatial"]
    maps = tensors([nchw(x) for x in pyramid], dtype)
    kernels = {kind: tensors([oihw(spatial[f"{kind}_kernel"])], inside)[0] for kind in KINDS}
    biases = {kind: tensors([spatial[f"{kind}_bias"]], inside)[0] for kind in KINDS}
    norms = {kind: tensors([spatial[f"{kind}_norm"]["scale"], spatial[f"{kind}_norm"]["bias"]]) for kind in KINDS}
    offset = tensors([oihw(spatial["offset"]["kernel"]), spatial["offset"]["bias"]], dtype)
    gate, squeeze, expand = (
        tensors([layer["kernel"].T, layer["bias"]])
        for layer in (params["scale"]["gate"], params["task"]["squeeze"], params["task"]["expand"])
    )

    def deformed(kind: str, x: torch.Tensor, offsets: torch.Tensor, mask: torch.Tensor, stride: int) -> torch.Tensor:
        x, offsets, mask = (t.to(inner).contiguous() for t in (x, offsets, mask))
        y = deform_conv2d(x, offsets, kernels[kind], biases[kind], stride=stride, padding=1, mask=mask)
        return F.group_norm(y.to(outer).float(), 16, *norms[kind], eps=1e-5).to(outer)

    def hard_sigmoid(x: torch.Tensor) -> torch.Tensor:
        return F.relu6(x + 3) / 6

    def scaled(candidates: Tensors) -> torch.Tensor:
        weights = [hard_sigmoid(F.relu(F.linear(f.float().mean((2, 3)), *gate))) for f in candidates]
        parts = [w.to(f.dtype)[:, :, None, None] * f for w, f in zip(weights, candidates, strict=True)]
        return sum(parts[1:], parts[0]) / len(parts)

    def activated(x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(F.linear(x.float().mean((2, 3)), *squeeze))
        theta = (hard_sigmoid(F.linear(hidden, *expand)) - 0.5).to(x.dtype)[:, :, None, None]
        a1, b1, a2, b2 = theta.chunk(4, dim=1)
        return torch.maximum(x * (a1 * 2 + 1) + b1, x * (a2 * 2) + b2)

    def forward() -> Tensors:
        predicted = [F.conv2d(x, *offset, padding=1).float() for x in maps]
        offsets, masks = [p[:, :18] for p in predicted], [p[:, 18:].sigmoid() for p in predicted]
        results = []
        for level, x in enumerate(maps):
            candidates = [deformed("mid", x, offsets[level], masks[level], 1)]
            if level > 0:
                candidates.append(deformed("low", maps[level - 1], offsets[level], masks[level], 2))
            if level + 1 < len(maps):
                coarse = maps[level + 1]
                flat = (first_of_buffer(t, coarse.shape[2:]) for t in (offsets[level], masks[level]))
                small = deformed("high", coarse, *flat, 1)
                candidates.append(F.interpolate(small, x.shape[2:], mode="bilinear", align_corners=True))
            results.append(activated(scaled(candidates)))
        return results

    def back_gradients(found: Tensors) -> list[np.ndarray]:
        count = len(maps)
        return [*maps_back(found[:count]), *(hwio(numpy(t)) for t in found[count : count + len(KINDS)])]

    others = [*biases.values(), *(t for pair in norms.values() for t in pair), *offset, *gate, *squeeze, *expand]
    return Computation(forward, [*maps, *kernels.values(), *others], maps_back, back_gradients)


def first_of_buffer(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The first entries of each image's buffer (c, H, W), read as (c, *size)."""
    b, c = x.shape[:2]
    return x.reshape(b, -1)[:, : c * size[0] * size[1]].reshape(b, c, *size)


def tensors(arrays: Sequence[np.ndarray], dtype: str = "float32") -> Tensors:
    """On the device, contiguous, asking for gradients."""
    kind = getattr(torch, dtype)
    return [torch.tensor(np.ascontiguousarray(a), device=DEVICE, dtype=kind, requires_grad=True) for a in arrays]


def maps_back(found: Tensors) -> list[np.ndarray]:
    return [nhwc(numpy(y)) for y in found]


def numpy(x: torch.Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()


def nchw(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def oihw(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(3, 2, 0, 1)


def hwio(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)
