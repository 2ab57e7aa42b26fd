"""A config survives the way through JSON, or is refused at once; files written by earlier versions are still read."""

import dataclasses
from pathlib import Path

import pytest

from dyhead_jax import config as configs
from dyhead_jax.config import flags

EARLIER = sorted((Path(__file__).parent / "earlier").glob("*.json"))  # written before attentions were nodes


@pytest.mark.parametrize("path", EARLIER, ids=lambda p: p.stem)
def test_an_earlier_config_json_is_read(path):
    name, _, argument = path.stem.partition("-")
    now = flags.load_file(f"configs/{name}.py" + (f":{argument}" if argument else ""))
    assert configs.load_file(path) == now
    assert configs.from_json(configs.to_json(now)) == now


def test_an_earlier_word_is_read_as_the_one_of_today():
    text = configs.to_json(configs.Config())
    for before, now in {"taps": "gather", "hat": "dense", "auto_tpu": "auto", "windows": "windows"}.items():
        old = text.replace('"implementation": "auto"', f'"implementation": "{before}"')
        assert configs.from_json(old).model.dyhead.implementation == now


def test_what_json_cannot_hold_is_refused_with_its_name():
    config = configs.Config()
    config.data.flip = abs
    with pytest.raises(configs.ConfigError, match=r"config\.data\.flip is .*, a builtin_function_or_method"):
        configs.to_json(config)


def test_a_config_class_of_a_config_file_is_refused_before_anything_runs(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "from dyhead_jax.config import Config, FPNConfig\n"
        "@dataclass(slots=True, kw_only=True)\n"
        "class Own(FPNConfig):\n"
        "    features: int = 8\n"
        "def get_config():\n"
        "    config = Config()\n"
        "    config.model.neck = Own()\n"
        "    return config\n"
    )
    with pytest.raises(configs.ConfigError, match=r"config\.model\.neck is a Own, which cannot be imported"):
        flags.override(flags.load_file(str(path)), [])


def test_a_node_of_a_class_that_is_not_there_is_named():
    text = configs.to_json(configs.Config())
    with pytest.raises(configs.ConfigError, match=r"run\.json: import path .*task has no 'Tusk'"):
        configs.from_json(text.replace("task:TaskAttention", "task:Tusk"), "run.json")
    with pytest.raises(configs.ConfigError, match=r"has no option 'reductio'; it has reduction"):
        configs.from_json(text.replace('"reduction"', '"reductio"'))


def test_fields_that_no_class_has_are_named():
    tree = configs.to_json(configs.Config()).replace('"flip"', '"flop"')
    with pytest.raises(configs.ConfigError, match="DataConfig has no field flop"):
        configs.from_json(tree)
    with pytest.raises(configs.ConfigError, match="is not JSON"):
        configs.from_json("{")
    assert dataclasses.is_dataclass(configs.Config())


TEXT = configs.to_json(configs.Config())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"seed": "\xff"}', "is not JSON: it is not UTF-8"),
        (b'{"seed": 1, "seed": 2}', "is not JSON: an object has the key 'seed' twice"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a":' * 100_000, "is nested too deeply"),
        (b"[" * 900 + b"]" * 900, "(is nested too deeply|does not hold a config)"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "is not JSON: Exceeds the limit"),
        (b"[1, 2]", "does not hold a config"),
        (TEXT.replace('"seed": 0', '"seed": "0"'), "Config.seed is '0'; it must be a whole number"),
        (TEXT.replace('"seed": 0', f'"seed": {"9" * 400}'), ""),
        (TEXT.replace('"seed": 0', '"seed": null'), "Config.seed is None; it must be a whole number"),
        (TEXT.replace('"flip": 0.5', '"flip": true'), "DataConfig.flip is True; it must be a number"),
        (TEXT.replace('"bgr": false', '"bgr": 0'), "ModelConfig.bgr is 0; it must be true or false"),
        (TEXT.replace('"reduction": 4', '"reduction": "x"'), "DyHeadConfig.task.reduction is 'x'; it must be a whole"),
        (TEXT.replace('"pretrained": ""', '"pretrained": [1]'), r"ModelConfig.pretrained is \(1,\); it must be a text"),
        (TEXT.replace('"optim": {', '"optim": 3, "other": {'), "Config has no field other"),
        (
            TEXT.replace('"max_boxes": 100', '"max_boxes": 1.5'),
            "DataConfig.max_boxes is 1.5; it must be a whole",
        ),
    ],
)
def test_what_is_no_config_is_one_line_that_names_the_file(text, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if not message:  # long, but a number
        assert configs.load_file(path).seed > 10**300
        return
    with pytest.raises(configs.ConfigError, match=rf"^{path}:? ?{message}") as error:
        configs.load_file(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
