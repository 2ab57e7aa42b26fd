"""What `tpu-profile` compiles: an operator, a block, a config's DyHead or its training step, by shapes."""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax.config import Config, flags, nodes
from dyhead_jax.dyhead import DyHead
from dyhead_jax.measure import block, head, tpu_compile, train
from dyhead_jax.measure.timing import with_gradients
from dyhead_jax.ops.deform_conv import deform_conv

WHATS = ("op", "block", "head", "step")
IMAGE = (800, 1344)  # (height, width) of the image of a block's pyramid, unless another is named
PLAIN = "gather"  # the form of the deformable convolution whose sampling has no products


@dataclass(frozen=True)
class Subject:
    """title: what it is; function: what is compiled, of `arguments`, trees of `jax.ShapeDtypeStruct`; counted: the same
    in the form whose arithmetic counts; replaced: the numbers of the arguments that the result replaces."""

    title: str
    function: Callable[..., Any]
    counted: Callable[..., Any]
    arguments: tuple[Any, ...]
    replaced: tuple[int, ...] = ()


def of(options: argparse.Namespace) -> Subject:
    """What the options of `tpu_profile.add_arguments` name."""
    return {"op": operator, "block": one_block, "head": whole_head, "step": training_step}[options.what](options)


def operator(options: argparse.Namespace) -> Subject:
    """The gradients of the 3x3 deformable convolution of a map."""

    def gradients(form: str) -> Callable[..., Any]:
        def forward(x: jax.Array, offsets: jax.Array, mask: jax.Array, kernel: jax.Array) -> jax.Array:
            return deform_conv(x, offsets, mask, kernel, padding=1, implementation=form)

        return with_gradients(forward, (0, 1, 2, 3))

    b, size, c, dtype = options.batch, options.map, options.channels, jnp.dtype(options.dtype)
    x, kernel = jax.ShapeDtypeStruct((b, *size, c), dtype), jax.ShapeDtypeStruct((3, 3, c, c), dtype)
    offsets, mask = (jax.ShapeDtypeStruct((b, *size, *taps), jnp.float32) for taps in ((9, 2), (9,)))
    title = f"{alone(options)}, of a map of {by(size)}"
    return Subject(title, gradients(options.form), gradients(PLAIN), (x, offsets, mask, kernel))


def one_block(options: argparse.Namespace) -> Subject:
    """The gradients of a DyHead block on the pyramid of an image."""
    size, dtype = options.size or IMAGE, jnp.dtype(options.dtype)
    pyramid = [jax.ShapeDtypeStruct((options.batch, *s, options.channels), dtype) for s in block.sizes(size, 5)]
    module, counted = (
        DyHead(num_blocks=1, features=options.channels, implementation=form, dtype=dtype)
        for form in (options.form, PLAIN)
    )
    return of_modules(f"{alone(options)}, of the pyramid of {by(size)}", module, counted, pyramid)


def whole_head(options: argparse.Namespace) -> Subject:
    """The gradients of a config's DyHead."""
    title, config = configured(options)
    dtype = jnp.dtype(config.model.dtype)
    module, counted = (nodes.build(c.model.dyhead, dtype=dtype) for c in (config, plain(config)))
    return of_modules(title, module, counted, jax.eval_shape(lambda: head.random_pyramid(config)))


def training_step(options: argparse.Namespace) -> Subject:
    """A config's training step, whose state replaces the old one."""
    title, config = configured(options)
    step, first = train.parts(config)
    counted, _ = train.parts(plain(config))
    arguments = jax.eval_shape(first), jax.eval_shape(lambda: train.random_batch(config))
    return Subject(title, step, counted, arguments, replaced=(0,))


def of_modules(title: str, module: Any, counted: Any, pyramid: Any) -> Subject:
    """The gradients of a module's variables and its pyramid."""
    variables = jax.eval_shape(module.init, jax.random.key(0), pyramid)
    function, plainly = (with_gradients(m.apply, (0, 1)) for m in (module, counted))
    return Subject(title, function, plainly, (variables, pyramid))


def configured(options: argparse.Namespace) -> tuple[str, Config]:
    """The title, and the config with its overrides for one chip."""
    config = flags.override(flags.load_file(options.config), options.overrides)
    config = tpu_compile.for_chips(config, 1, options.batch, options.size)
    size = by(config.data.canvases[0])
    return f"{options.config}: {options.what}, {options.batch} image(s) of {size}, {config.model.dtype}", config


def plain(config: Config) -> Config:
    """The config with the form PLAIN in DyHead."""
    result = copy.deepcopy(config)
    if hasattr(result.model.dyhead, "implementation"):
        result.model.dyhead.implementation = PLAIN
    return result


def alone(options: argparse.Namespace) -> str:
    """Title of what has no config."""
    kind = f"{options.what}, form {options.form!r}, with gradients"
    return f"{kind}, batch {options.batch}, {options.channels} channels, {options.dtype}"


def by(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
