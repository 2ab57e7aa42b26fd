"""The shipped attentions keep the contract, and whoever breaks a property is told which."""

import dataclasses
import os
import sys

import pytest

from dyhead_jax import command
from dyhead_jax.config import ConfigError
from dyhead_jax.contract import PROPERTIES, __main__, independence
from dyhead_jax.contract.check import Outcome, check
from dyhead_jax.contract.subject import make_subject
from dyhead_jax.contract.tiny_model import HEADS
from tests.contract import faults

FAULTS = "tests.contract.faults"
TRACED = ("fields", "shapes", "levels", "rates")  # nothing is compiled


def of(kind, name, *options):
    """A fork's attention with others that compile fast."""
    chosen = {"spatial": f"{FAULTS}:Spatial", "scale": "none", "task": "none"} | {kind: f"{FAULTS}:{name}"}
    return dataclasses.replace(make_subject(chosen, options), tested=(kind,))


def outcomes(subject, *names):
    return {outcome.name: outcome for outcome in check(subject, names or tuple(PROPERTIES))}


@pytest.mark.parametrize(
    ("kind", "name", "broken", "text"),
    [
        ("spatial", "Fields", "fields", "nothing is handed down to a field 'd_type'; is it 'dtype'?"),
        (
            "task",
            "Shapes",
            "shapes",
            "task attention Shapes, level 0: returns float32[2, 12, 10, 16], not float32[2, 13",
        ),
        ("spatial", "Levels", "levels", "spatial/table depends on the number of levels"),
        ("task", "Train", "train", "detection has no random numbers, but"),
        pytest.param("task", "Statistics", "train", "there are batch statistics", marks=pytest.mark.long),
        ("task", "Rates", "rates", "offset_rate does not reach block_0/task/my_offsets/bias"),
        pytest.param(
            "task",
            "Missing",
            "rates",
            "Missing declares offset_parameters 'sampling', but has no",
            marks=pytest.mark.long,
        ),
        ("task", "Detectors", "detectors", "ATSS does not work with it: not in training"),
        ("task", "Gradients", "gradients", "task/spare is zero whatever the weights"),
        pytest.param("task", "Infinite", "gradients", "task/weight are not", marks=pytest.mark.long),
        ("task", "Dead", "dead", "no parameter of block_0/task has a gradient at the start"),
        ("task", "Batch", "batch", "another image beside it changes it by"),
        ("task", "Padding", "padding", "task takes `valid`, but what lies in the padding changes its result"),
        (
            "task",
            "Bfloat16",
            "bfloat16",
            "task attention Bfloat16, level 0: returns float32[2, 13, 11, 16], not bfloat16",
        ),
        ("task", "Rounded", "bfloat16", "from float32 in the mean; at most 10% is rounding"),
        ("task", "Scan", "scan", "scan and remat change nothing, but the result differs by"),
        ("task", "Sharding", "sharding", "each device keeps its images, but the program has"),
    ],
    ids=lambda text: text if text in vars(faults) else "",
)
def test_a_fault_is_named(kind, name, broken, text):
    found = outcomes(of(kind, name), broken)[broken]
    assert found.holds is False
    assert text in found.text
    assert str(found).startswith(f"{broken:<11}FAILED: ")


def test_a_sound_attention_passes_what_is_traced():
    found = outcomes(of("spatial", "Spatial", "spatial.gain=2.0"), *TRACED)
    assert {name: outcome.holds for name, outcome in found.items()} == dict.fromkeys(TRACED, True), found
    assert found["fields"].text == "spatial takes features, dtype"
    assert "as declared: ['spatial/table']" in outcomes(of("spatial", "DeclaredLevels"), "levels")["levels"].text


@pytest.mark.long
@pytest.mark.parametrize(("kind", "name"), [("spatial", "Spatial"), ("task", "Trained"), ("block", "Block")])
def test_a_sound_attention_passes_everything(kind, name):
    found = outcomes(of(kind, name))
    assert {name: outcome.holds for name, outcome in found.items()} == dict.fromkeys(PROPERTIES, True), found
    assert found["detectors"].text == ", ".join(HEADS)
    if name == "Trained":
        assert "random numbers; 4 arrays of batch statistics, which move" in found["train"].text


@pytest.mark.long
def test_a_block_takes_its_statistics_over_the_image():
    """With the shipped spatial attention, though it hands no `coarse_offsets` down."""
    subject = make_subject({"block": f"{FAULTS}:Block"})
    assert subject.tested == ("block",)
    assert outcomes(subject, "padding")["padding"].text == "block: that of the image alone"


@pytest.mark.long
def test_the_shipped_attentions_pass_everything():
    found = outcomes(make_subject({}))
    assert {name: outcome.holds for name, outcome in found.items()} == dict.fromkeys(PROPERTIES, True), found
    assert found["padding"].text.count("that of the image alone") == 3
    assert "offset_rate: 3,915 values" in found["rates"].text  # 27 x (144 + 1)


def test_the_shipped_attentions_pass_what_is_traced():
    found = outcomes(make_subject({}), "fields", "shapes", "levels")
    assert all(outcome.holds for outcome in found.values()), found


def test_the_command_names_what_failed(capsys, monkeypatch):
    given = [
        "contract",
        "--spatial",
        f"{FAULTS}:Levels",
        "--scale=none",
        "--task=none",
        "--only=levels",
        "--only=fields",
    ]
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):  # which the command changes
        monkeypatch.setenv(name, os.environ[name])
    monkeypatch.setattr(sys, "argv", given)
    assert __main__._main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fields     ok: spatial takes nothing"
    assert lines[1].startswith("levels     FAILED: spatial/table depends")
    assert lines[2:] == ["1 of 2 properties FAILED"]
    monkeypatch.setattr(
        sys, "argv", [*given[:1], "--spatial", f"{FAULTS}:Spatial", "--spatial.gain", "3", "--only=levels"]
    )
    assert __main__._main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all 1 properties hold"


@pytest.mark.parametrize(
    ("chosen", "options", "error", "text"),
    [
        (
            {"spatial": f"{FAULTS}:Spatial"},
            ["spatial.gian=2"],
            command.UsageError,
            "--spatial.gian: Spatial has no field",
        ),
        ({"spatial": f"{FAULTS}:Spatia"}, [], ConfigError, "has no 'Spatia'"),
        ({}, ["task.reduction=many"], command.UsageError, "reduction=many"),
    ],
)
def test_a_wrong_command_line_is_one_line(chosen, options, error, text):
    with pytest.raises(error) as found:
        make_subject(chosen, options)
    assert text in command.one_line(found.value)


def test_options_behind_a_dot_are_split_off():
    assert __main__.split(["--task=m:T", "--task.width=8", "--spatial.points", "4", "--only", "batch"]) == (
        ["--task=m:T", "--only", "batch"],
        ["task.width=8", "spatial.points=4"],
    )
    with pytest.raises(command.UsageError, match=r"--task\.width needs a value"):
        __main__.split(["--task.width"])


def test_what_failed_for_the_same_reason_refers_to_it():
    found = outcomes(of("task", "Shapes"), "shapes", "levels")
    assert found["levels"].text == "as shapes"
    assert independence.ROUNDING < 1e-4
    assert (
        str(Outcome("export", None, "needs the extra safetensors")) == "export     not run: needs the extra safetensors"
    )
