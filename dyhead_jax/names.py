"""Name tables from PyTorch checkpoints to the parameters here, `load`, which accounts for every one, and `save`.

A table is a list of rules. `Rule("layer{}.{}.conv{}.weight", "layer{}_{}/conv{}/kernel", "conv")`: each {} stands for a
number and goes over in order; the kind says how the array is laid out (KINDS). A target `scales[{}]` is one piece of a
stack. Tables add up, and `under` puts one below a prefix:

    resnet.under("backbone.", "backbone") + fpn_mmdet(3).under("neck.0.", "neck")
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


class NamesError(ValueError):
    """A checkpoint that does not fit the model; the message names parameters and shapes."""


def _merging_order(x: np.ndarray) -> np.ndarray:
    """Channels of mmdetection's patch merging (nn.Unfold) -> the official order, along the last axis.

    Both stack the four pixels of a 2x2 cell: mmdetection as (c, row, column), the official code as (column, row, c).
    """
    *rest, c4 = x.shape
    return x.reshape(*rest, c4 // 4, 2, 2).swapaxes(-1, -3).reshape(*rest, c4)


def _unfold_order(x: np.ndarray) -> np.ndarray:
    """The inverse of `_merging_order`."""
    *rest, c4 = x.shape
    return x.reshape(*rest, 2, 2, c4 // 4).swapaxes(-1, -3).reshape(*rest, c4)


def _flat(x: np.ndarray) -> np.ndarray:
    if x.shape[2:] != (1, 1):
        raise ValueError("not a 1x1 kernel")
    return x[:, :, 0, 0].transpose(1, 0)


# PyTorch layout -> layout here
KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    "scalar": lambda x: x.reshape(()),  # PyTorch has shape () or (1,)
    "conv": lambda x: x.transpose(2, 3, 1, 0),  # (out, in, kh, kw) -> (kh, kw, in, out)
    "linear": lambda x: x.transpose(1, 0),  # (out, in) -> (in, out)
    "flat_conv": _flat,  # a 1x1 convolution that is a linear layer here
    "unfold_linear": lambda x: _merging_order(x).transpose(1, 0),
    "unfold_vector": _merging_order,
    "nchw": lambda x: x.transpose(0, 2, 3, 1),
}

# and back
INVERSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    "scalar": lambda x: x.reshape(()),
    "conv": lambda x: x.transpose(3, 2, 0, 1),
    "linear": lambda x: x.transpose(1, 0),
    "flat_conv": lambda x: x.transpose(1, 0)[:, :, None, None],
    "unfold_linear": lambda x: _unfold_order(x.transpose(1, 0)),
    "unfold_vector": _unfold_order,
    "nchw": lambda x: x.transpose(0, 3, 1, 2),
}


@dataclass(frozen=True)
class Rule:
    """source: the name in the file, {} for numbers; target: module path and parameter here, by slashes."""

    source: str
    target: str
    kind: str
    collection: str = "params"


@dataclass(frozen=True)
class Table:
    """Rules; `ignored`: names of the file with no place here; `optional`: paths here that a file may lack.

    In `ignored` a {} is any number and a * anything; an optional path keeps the value it has.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def under(self, source: str, target: str) -> "Table":
        """The same table for a model that sits below the prefix `source` there and the module path `target` here."""
        head = f"{target}/" if target else ""
        rules = (dataclasses.replace(r, source=source + r.source, target=head + r.target) for r in self.rules)
        return Table(tuple(rules), tuple(source + i for i in self.ignored), tuple(head + o for o in self.optional))

    def __add__(self, other: "Table") -> "Table":
        return Table(self.rules + other.rules, self.ignored + other.ignored, self.optional + other.optional)


def conv(source: str, target: str, bias: bool = False) -> tuple[Rule, ...]:
    rules = (Rule(f"{source}.weight", f"{target}/kernel", "conv"),)
    return (*rules, Rule(f"{source}.bias", f"{target}/bias", "same")) if bias else rules


def linear(source: str, target: str, bias: bool = True) -> tuple[Rule, ...]:
    rules = (Rule(f"{source}.weight", f"{target}/kernel", "linear"),)
    return (*rules, Rule(f"{source}.bias", f"{target}/bias", "same")) if bias else rules


def flat_conv(source: str, target: str) -> tuple[Rule, ...]:
    """A 1x1 convolution with bias that is a linear layer here."""
    return (Rule(f"{source}.weight", f"{target}/kernel", "flat_conv"), Rule(f"{source}.bias", f"{target}/bias", "same"))


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """Layer or group norm."""
    return (Rule(f"{source}.weight", f"{target}/scale", "same"), Rule(f"{source}.bias", f"{target}/bias", "same"))


def batch_norm(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *norm(source, target),
        Rule(f"{source}.running_mean", f"{target}/mean", "same", "batch_stats"),
        Rule(f"{source}.running_var", f"{target}/var", "same", "batch_stats"),
    )


# torchvision and mmdetection; mmdetection puts the offset convolution inside the deformable one
resnet = Table(
    (
        *conv("conv1", "conv1"),
        *batch_norm("bn1", "bn1"),
        *conv("layer{}.{}.conv{}", "layer{}_{}/conv{}"),
        *batch_norm("layer{}.{}.bn{}", "layer{}_{}/bn{}"),
        *conv("layer{}.{}.conv2.conv_offset", "layer{}_{}/conv2_offset", bias=True),
        *conv("layer{}.{}.downsample.0", "layer{}_{}/downsample_conv"),
        *batch_norm("layer{}.{}.downsample.1", "layer{}_{}/downsample_bn"),
    ),
    ignored=("bn1.num_batches_tracked", "layer*.num_batches_tracked", "fc.*"),
)


def _detectron2_stage(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *conv(f"{source}.conv{{}}", f"{target}/conv{{}}"),
        *batch_norm(f"{source}.conv{{}}.norm", f"{target}/bn{{}}"),
        *conv(f"{source}.conv2_offset", f"{target}/conv2_offset", bias=True),
        *conv(f"{source}.shortcut", f"{target}/downsample_conv"),
        *batch_norm(f"{source}.shortcut.norm", f"{target}/downsample_bn"),
    )


# detectron2: stage k of the four is res{k + 1}
resnet_detectron2 = Table(
    (
        *conv("stem.conv1", "conv1"),
        *batch_norm("stem.conv1.norm", "bn1"),
        *(rule for stage in (1, 2, 3, 4) for rule in _detectron2_stage(f"res{stage + 1}.{{}}", f"layer{stage}_{{}}")),
    ),
    ignored=("stem.fc.*", "linear.*"),
)


def fpn_mmdet(used: int) -> Table:
    """mmdetection's FPN of `used` backbone maps; its extra convolutions follow in the same list as the outputs."""
    return Table(
        conv("lateral_convs.{}.conv", "lateral_{}", bias=True)
        + tuple(r for i in range(used) for r in conv(f"fpn_convs.{i}.conv", f"output_{i}", bias=True))
        + tuple(r for i in range(4) for r in conv(f"fpn_convs.{used + i}.conv", f"extra_{i}", bias=True))
    )


def fpn_detectron2(start: int) -> Table:
    """detectron2's FPN (`fpn_lateral3`, `fpn_output3`, `top_block.p6`) from backbone map `start` on; 0 is C2."""
    return Table(
        tuple(
            rule
            for level in range(start + 2, 6)
            for rule in (
                *conv(f"fpn_lateral{level}", f"lateral_{level - start - 2}", bias=True),
                *conv(f"fpn_output{level}", f"output_{level - start - 2}", bias=True),
            )
        )
        + conv("top_block.p6", "extra_0", bias=True)
        + conv("top_block.p7", "extra_1", bias=True)
    )


# Swin: layers here follow the official order of channels in patch merging
swin_official = Table(
    (
        *conv("patch_embed.proj", "patch_embed/proj", bias=True),
        *norm("patch_embed.norm", "patch_embed/norm"),
        Rule("absolute_pos_embed", "absolute_pos_embed", "nchw"),  # (1, c, h, w)
        *norm("layers.{}.blocks.{}.norm{}", "layer{}_{}/norm{}"),
        Rule(
            "layers.{}.blocks.{}.attn.relative_position_bias_table",
            "layer{}_{}/attn/relative_position_bias_table",
            "same",
        ),
        *linear("layers.{}.blocks.{}.attn.qkv", "layer{}_{}/attn/qkv"),
        *linear("layers.{}.blocks.{}.attn.proj", "layer{}_{}/attn/proj"),
        *linear("layers.{}.blocks.{}.mlp.fc{}", "layer{}_{}/fc{}"),
        *norm("layers.{}.downsample.norm", "downsample{}/norm"),
        *linear("layers.{}.downsample.reduction", "downsample{}/reduction", bias=False),
        *norm("norm{}", "norm{}"),
    ),
    # the last ones belong to the classifier
    ignored=("*.relative_position_index", "*.attn_mask", "head.*", "norm.weight", "norm.bias"),
    optional=("norm{}/scale", "norm{}/bias"),  # a file has norms of the maps its own detector used
)

swin_mmdet = Table(
    (
        *conv("patch_embed.projection", "patch_embed/proj", bias=True),
        *norm("patch_embed.norm", "patch_embed/norm"),
        Rule("absolute_pos_embed", "absolute_pos_embed", "nchw"),
        *norm("stages.{}.blocks.{}.norm{}", "layer{}_{}/norm{}"),
        Rule(
            "stages.{}.blocks.{}.attn.w_msa.relative_position_bias_table",
            "layer{}_{}/attn/relative_position_bias_table",
            "same",
        ),
        *linear("stages.{}.blocks.{}.attn.w_msa.qkv", "layer{}_{}/attn/qkv"),
        *linear("stages.{}.blocks.{}.attn.w_msa.proj", "layer{}_{}/attn/proj"),
        *linear("stages.{}.blocks.{}.ffn.layers.0.0", "layer{}_{}/fc1"),
        *linear("stages.{}.blocks.{}.ffn.layers.1", "layer{}_{}/fc2"),
        Rule("stages.{}.downsample.norm.weight", "downsample{}/norm/scale", "unfold_vector"),
        Rule("stages.{}.downsample.norm.bias", "downsample{}/norm/bias", "unfold_vector"),
        Rule("stages.{}.downsample.reduction.weight", "downsample{}/reduction/kernel", "unfold_linear"),
        *norm("norm{}", "norm{}"),
    ),
    ignored=("*.relative_position_index",),
    optional=("norm{}/scale", "norm{}/bias"),
)


def official_dyhead(blocks: int, scan: bool = False) -> Table:
    """The official DyHead's tower, names from "0.DyConv.0.conv.weight" on (in its files below `...dyhead_tower.`).

    scan: for `DyHead(scan=True)`, whose parameters are stacked over blocks.
    """
    rules: list[Rule] = []
    for i in range(blocks):
        for index, kind in enumerate(("high", "mid", "low")):
            rules += [
                Rule(f"{i}.DyConv.{index}.conv.weight", f"spatial/{kind}_kernel", "conv"),
                Rule(f"{i}.DyConv.{index}.conv.bias", f"spatial/{kind}_bias", "same"),
                *norm(f"{i}.DyConv.{index}.bn", f"spatial/{kind}_norm"),
            ]
        rules += conv(f"{i}.offset", "spatial/offset", bias=True)
        rules += flat_conv(f"{i}.AttnConv.1", "scale/gate")
        rules += linear(f"{i}.relu.fc.0", "task/squeeze") + linear(f"{i}.relu.fc.2", "task/expand")
    return Table(_in_blocks(rules, blocks, scan))


def mmdet_dyhead(blocks: int, scan: bool = False) -> Table:
    """mmdetection's DyHead, names from "dyhead_blocks.0.spatial_conv_high.conv.weight" on; its DCN has no bias."""
    rules: list[Rule] = []
    for i in range(blocks):
        for kind in ("high", "mid", "low"):
            rules.append(Rule(f"dyhead_blocks.{i}.spatial_conv_{kind}.conv.weight", f"spatial/{kind}_kernel", "conv"))
            rules += norm(f"dyhead_blocks.{i}.spatial_conv_{kind}.norm", f"spatial/{kind}_norm")
        rules += conv(f"dyhead_blocks.{i}.spatial_conv_offset", "spatial/offset", bias=True)
        rules += flat_conv(f"dyhead_blocks.{i}.scale_attn_module.1", "scale/gate")
        rules += flat_conv(f"dyhead_blocks.{i}.task_attn_module.conv1.conv", "task/squeeze")
        rules += flat_conv(f"dyhead_blocks.{i}.task_attn_module.conv2.conv", "task/expand")
    return Table(_in_blocks(rules, blocks, scan))


def _in_blocks(rules: list[Rule], blocks: int, scan: bool) -> tuple[Rule, ...]:
    each = len(rules) // max(blocks, 1)
    place = (lambda i, target: f"blocks/{target}[{i}]") if scan else (lambda i, target: f"block_{i}/{target}")
    return tuple(dataclasses.replace(rule, target=place(n // each, rule.target)) for n, rule in enumerate(rules))


atss_official = Table(
    (
        *conv("cls_logits", "class_predictor", bias=True),
        *conv("bbox_pred", "box_predictor", bias=True),
        *conv("centerness", "centerness_predictor", bias=True),
        Rule("scales.{}.scale", "scales[{}]", "scalar"),
    )
)

atss_mmdet = Table(
    (
        *conv("atss_cls", "class_predictor", bias=True),
        *conv("atss_reg", "box_predictor", bias=True),
        *conv("atss_centerness", "centerness_predictor", bias=True),
        *conv("cls_convs.{}.conv", "class_tower/conv_{}"),
        *norm("cls_convs.{}.gn", "class_tower/norm_{}"),
        *conv("reg_convs.{}.conv", "box_tower/conv_{}"),
        *norm("reg_convs.{}.gn", "box_tower/norm_{}"),
        Rule("scales.{}.scale", "scales[{}]", "scalar"),
    )
)


def load(
    table: Table, state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The tree {"params": ..., "batch_stats": ...} of NumPy arrays that a PyTorch checkpoint holds for a model here.

    variables: the model's own tree, arrays or `jax.ShapeDtypeStruct` (of `jax.eval_shape(model.init, ...)`). With it
    every parameter of both sides is accounted for, and the result has its structure and dtypes; without it the tree is
    what the table makes of the file.
    Raises NamesError, naming up to five of them, for names of the file that no rule takes, parameters of `variables`
    that the file does not fill, two names for one parameter, missing pieces of a stack, and shapes that differ.
    """
    rules = [(_pattern(rule.source), rule) for rule in table.rules]
    ignored = [_pattern(name) for name in table.ignored]
    flat = None if variables is None else _flatten(variables)
    filled: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    pieces: dict[str, dict[int, np.ndarray]] = {}
    unknown: list[str] = []
    for name, array in state_dict.items():
        match = next(((m, rule) for pattern, rule in rules if (m := pattern.fullmatch(name))), None)
        if match is None:
            if not any(pattern.fullmatch(name) for pattern in ignored):
                unknown.append(name)
            continue
        path = f"{match[1].collection}/{_fill(match[1].target, match[0].groups())}"
        stack = _STACK.fullmatch(path)
        leaf = stack[1] if stack else path
        if flat is not None and leaf not in flat:
            unknown.append(name)
            continue
        if path in names:
            raise NamesError(f"{names[path]} and {name} of the checkpoint both fill {path}")
        names[path] = name
        names.setdefault(leaf, name)
        value = _layout(np.asarray(array), match[1].kind, name, path)
        if stack:
            pieces.setdefault(leaf, {})[int(stack[2])] = value
        else:
            filled[path] = value
    if unknown:
        raise NamesError(f"the model has no place for {_some(unknown)} of the checkpoint")
    for path, values in pieces.items():
        lacking = sorted(set(range(max(values) + 1)) - set(values))
        if lacking or len({v.shape for v in values.values()}) > 1:
            raise NamesError(f"the checkpoint's pieces of {path} do not stack: indices {sorted(values)}")
        filled[path] = np.stack([values[i] for i in range(len(values))])
    if flat is not None:
        filled = _checked(filled, flat, names, table)
    return _nest(filled)


def _checked(filled: dict, flat: dict[str, Any], names: dict[str, str], table: Table) -> dict[str, np.ndarray]:
    """`filled` in the order and dtypes of `flat`, optional gaps filled from there."""
    optional = [_pattern(f"params/{path}") for path in table.optional]
    result, missing = {}, []
    for path, leaf in flat.items():
        if path in filled:
            if filled[path].shape != tuple(leaf.shape):
                shapes = f"{filled[path].shape}; {path} has {tuple(leaf.shape)}"
                raise NamesError(f"{names[path]} of the checkpoint gives shape {shapes}")
            result[path] = filled[path].astype(leaf.dtype)
        elif any(p.fullmatch(path) for p in optional) and not isinstance(leaf, jax.ShapeDtypeStruct):
            result[path] = np.asarray(leaf)
        else:
            missing.append(path)
    if missing:
        raise NamesError(f"the checkpoint has nothing for {_some(missing)} of the model")
    return result


def save(table: Table, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch names and layouts of a tree {"params": ..., ...}: `load` backwards, for what the table names.

    Raises NamesError for a parameter that no rule gives.
    """
    rules = [(_pattern(f"{rule.collection}/{rule.target}"), rule) for rule in table.rules]
    result: dict[str, np.ndarray] = {}
    unknown: list[str] = []
    for path, leaf in _flatten(variables).items():
        value = np.asarray(leaf)
        entries = [(path, value)]
        if not any(pattern.fullmatch(path) for pattern, _ in rules):
            entries = [(f"{path}[{i}]", piece) for i, piece in enumerate(value)] if value.ndim else []
        found = [(m, rule, v) for p, v in entries for pattern, rule in rules if (m := pattern.fullmatch(p))]
        if not found:
            unknown.append(path)
        for match, rule, v in found:
            result[_fill(rule.source, match.groups())] = INVERSES[rule.kind](v)
    if unknown:
        raise NamesError(f"the table has no name for {_some(unknown)}")
    return result


_STACK = re.compile(r"(.*)\[(\d+)\]")  # piece number n of a stack


def _flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    return {"/".join(str(key.key) for key in keys): leaf for keys, leaf in leaves}


def _nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return tree


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)").replace(r"\*", ".*"))


def _fill(name: str, numbers: Sequence[str]) -> str:
    for number in numbers:
        name = name.replace("{}", number, 1)
    return name


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _layout(array: np.ndarray, kind: str, name: str, path: str) -> np.ndarray:
    try:
        return KINDS[kind](array)
    except (ValueError, IndexError) as error:
        raise NamesError(f"{name} of the checkpoint has shape {array.shape}, which is no {kind} for {path}") from error
