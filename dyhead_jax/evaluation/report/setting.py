"""What a report was made of: data, model, machine, versions."""

import datetime
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pycocotools")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The heading of a report.

    title: of the page; data, model: (name, value) lines; notes: what was left out of the data, one line each;
    speed: from `speed.TimedDetect.summary`, None: not measured; no_speed: why not; devices: as JAX names them.
    """

    title: str
    data: Sequence[tuple[str, str]]
    model: Sequence[tuple[str, str]]
    notes: Sequence[str] = ()
    speed: dict[str, Any] | None = None
    no_speed: str = ""
    devices: str = ""
    date: str = field(default_factory=lambda: datetime.datetime.now().astimezone().isoformat(" ", "minutes"))


def hardware(devices: str) -> str:
    """The processor, and the devices where JAX computed on others."""
    return ", ".join(text for text in (_processor(), devices) if text)


def versions() -> dict[str, str]:
    """Of Python, this package and those that its numbers depend on."""
    from dyhead_jax import __version__

    found = {"python": platform.python_version(), "dyhead_jax": __version__}
    return {**found, **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
