"""What a report was made of: data, model, machine, versions."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dyhead_jax.config import Config, DataConfig

_PACKAGES = ("dyhead-jax", "jax", "jaxlib", "flax", "numpy", "pycocotools")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The heading of a report.

    title: of the page; data, model: (name, value) lines; notes: what was left out of the data, one line each;
    speed: from `speed.TimedDetect.summary`, None: not measured; no_speed: then the reason, half a sentence; devices: as
    JAX names them.
    """

    title: str
    data: Sequence[tuple[str, str]]
    model: Sequence[tuple[str, str]]
    notes: Sequence[str] = ()
    speed: dict[str, Any] | None = None
    no_speed: str = "no model was run"
    devices: str = ""
    date: str = field(default_factory=lambda: datetime.datetime.now().astimezone().isoformat(" ", "minutes"))


def data_lines(data: DataConfig, split: str) -> list[tuple[str, str]]:
    """The lines of `Setting.data` for a split of a config's data set."""
    options = dataclasses.asdict(data.source)
    root = data.root or ("root" in options and options["root"])
    lines = [("folder", str(root))] if root else []  # drawn pictures need none
    lines += [("source", _class_name(data.source)), ("split", split)]
    if f"{split}_annotations" in options:
        lines.append(("annotations", str(options[f"{split}_annotations"])))
    return lines


def model_lines(config: Config, workdir: str, step: int) -> list[tuple[str, str]]:
    """The lines of `Setting.model` for the model of a workdir."""
    backbone, dyhead = dataclasses.asdict(config.model.backbone), dataclasses.asdict(config.model.dyhead)
    depth = f", depth {backbone['depth']}" if "depth" in backbone else ""
    blocks = f"{dyhead['num_blocks']} blocks" if "num_blocks" in dyhead else _class_name(config.model.dyhead)
    return [
        ("workdir", workdir),
        ("step", str(step)),
        ("detector", _class_name(config.model.head)),
        ("backbone", _class_name(config.model.backbone) + depth),
        ("DyHead", blocks),
    ]


def _class_name(node: Any) -> str:
    return str(node.module).rpartition(":")[2]


def hardware(devices: str) -> str:
    """The processor, its cores, and the devices on which JAX computed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ", ".join(text for text in (_processor(), f"{cores} cores", devices) if text)


def versions() -> dict[str, str]:
    """Of Python, and of this package and those that its numbers depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # this one, when it runs from its sources
            found[name] = importlib.metadata.version(name)
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
