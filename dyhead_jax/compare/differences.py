"""In which options configs differ, so that nobody takes a longer training for a better model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dyhead_jax.config import Config, to_json

NOT_COMPARED = ("seed", "run.compilation_cache")
BLOCKS = "model.dyhead.num_blocks"
STARTING_WEIGHTS = ("model.init", "model.pretrained")


@dataclass(frozen=True)
class Difference:
    """An option that one config has otherwise than its baseline. name: as on the command line, without `--config.`."""

    name: str
    first: Any
    here: Any

    @property
    def is_of_the_model(self) -> bool:
        """Otherwise it is of the data, the schedule, the weights at the start: the training itself is another one."""
        return self.name.startswith("model.") and self.name not in STARTING_WEIGHTS

    def __str__(self) -> str:
        return f"{self.name} {_text(self.here)} (first: {_text(self.first)})"


def find(first: Config, other: Config) -> list[Difference]:
    """What `other` has otherwise than `first`, apart from the seed. Two parts of different classes are one difference,
    whatever their options; of DyHead only the number of blocks if one of them has none."""
    found = _find(json.loads(to_json(first)), json.loads(to_json(other)), "")
    found = [difference for difference in found if difference.name not in NOT_COMPARED]
    if 0 not in (first.model.dyhead.num_blocks, other.model.dyhead.num_blocks):
        return found
    return [d for d in found if d.name == BLOCKS or not d.name.startswith("model.dyhead.")]


def notes(differences: Mapping[str, Sequence[Difference]], baselines: Mapping[str, str]) -> list[str]:
    """Lines of Markdown. Both by the name of each candidate that has a baseline."""
    lines = []
    for of_the_model, title in (
        (False, "**Not the same training**: besides the model these differ, and may be what the table shows:"),
        (True, "What differs in the model:"),
    ):
        part = [
            f"- `{name}`: " + "; ".join(str(difference) for difference in chosen)
            for name, found in differences.items()
            if (chosen := [d for d in found if d.is_of_the_model == of_the_model])
        ]
        if part:
            lines += ["", title, "", *part]
    for baseline in dict.fromkeys(baselines.values()):
        same = [name for name, found in differences.items() if not found and baselines[name] == baseline]
        if same:
            lines += ["", f"The same config as `{baseline}`: " + ", ".join(f"`{name}`" for name in same)]
    return lines


def _find(first: Any, here: Any, name: str) -> list[Difference]:
    if isinstance(first, dict) and isinstance(here, dict) and _kind(first) == _kind(here):
        found = []
        for key in {**first, **here}:
            found += _find(first.get(key), here.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if first == here else [Difference(name, first, here)]


def _kind(tree: Mapping[str, Any]) -> Any:
    return tree.get("class"), tree.get("module")


def _text(value: Any) -> str:
    """Of a part only its class, or its import path with what it was given."""
    if not isinstance(value, dict):
        return json.dumps(value)
    if "class" in value:
        return str(value["class"]).partition(":")[2]
    given = ", ".join(f"{key}={json.dumps(option)}" for key, option in value.items() if key != "module")
    return f"{value.get('module')}({given})" if given else str(value.get("module"))
