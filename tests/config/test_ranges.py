"""Every number of every config class has a range, and `validate` refuses what lies just outside of it."""

import dataclasses
import math
import typing

import pytest

from dyhead_jax import config as configs
from dyhead_jax.choices import Choice
from dyhead_jax.config import Config, ConfigError, flags, import_path, nodes, ranges, validate, validation
from tests.config.range_edges import edges

PLACES = {
    "Config": (),
    "ModelConfig": ("model",),
    "DataConfig": ("data",),
    "OptimConfig": ("optim",),
    "RunConfig": ("run",),
    "EvaluationConfig": ("evaluation",),
    "FPNConfig": ("model", "neck"),
    "DyHeadConfig": ("model", "dyhead"),
    **dict.fromkeys(("ResNetConfig", "EfficientNetLiteConfig", "SwinConfig"), ("model", "backbone")),
    **dict.fromkeys(("ShapesConfig", "PhotosConfig", "CocoFolderConfig", "CocoRecordsConfig"), ("data", "source")),
}
# texts that are names of files or folders, or of columns: whoever uses them says what is wrong
FREE_TEXTS = {
    ("ModelConfig", "pretrained"), ("ModelConfig", "init"), ("DataConfig", "root"), ("RunConfig", "compilation_cache")
}  # fmt: skip


def classes():
    found = [cls for cls in vars(configs).values() if isinstance(cls, type) and dataclasses.is_dataclass(cls)]
    return sorted(found, key=lambda cls: cls.__name__)


def parts():
    """One object of every config class, and of every node that the defaults make of other classes."""
    made = [part for _, part in validation.all_parts(Config()) if isinstance(part, nodes.Options)]
    return [*(cls() for cls in classes()), *made]


def placed(part):
    """A config with this object in its place, and the object's name there."""
    config = Config()
    if isinstance(part, nodes.Options):
        name = next(name for name, other in validation.all_parts(config) if getattr(other, "module", "") == part.module)
        path = tuple(name.split(".")[1:])
    else:
        path = PLACES.get(type(part).__name__, ("model", "head"))
    if not path:
        return part, "config"
    parent = config
    for name in path[:-1]:
        parent = getattr(parent, name)
    setattr(parent, path[-1], part)
    return config, ".".join(("config", *path))


def leaf(hint):
    """int or float where the field holds numbers, alone or in tuples, else None."""
    while typing.get_origin(hint) is tuple:
        hint = typing.get_args(hint)[0]
    return hint if hint in (int, float) else None


def numbers():
    for part in parts():
        hints = typing.get_type_hints(type(part))
        for field in dataclasses.fields(part):
            if leaf(hints[field.name]) is not None:
                yield part, field.name, leaf(hints[field.name])


NUMBERS = list(numbers())


@pytest.mark.parametrize(("part", "field", "kind"), NUMBERS, ids=[f"{type(p).__name__}.{f}" for p, f, _ in NUMBERS])
def test_every_number_has_a_range_and_each_edge_of_it_holds(part, field, kind):
    rule = ranges.rules_of(part).get(field)
    assert rule is not None, "no range in dyhead_jax/config/ranges.py"
    assert rule.allows(getattr(part, field))
    inside, outside = edges(rule, whole=kind is int)
    assert inside or kind is float
    assert outside
    for value in inside:
        validation._check_fields("config", dataclasses.replace(part, **{field: value}))
    for value in outside:
        config, name = placed(dataclasses.replace(part, **{field: value}))
        with pytest.raises(ConfigError, match=rf"^{name}\.{field} is ") as error:
            validate(config)
        assert "\n" not in str(error.value)


def test_no_range_is_of_a_field_that_is_not_there():
    fields = {(type(part).__name__, field) for part, field, _ in NUMBERS}
    named = {(name, field) for name, rules in ranges.RANGES.items() if ":" not in name for field in rules}
    assert named <= fields


def test_every_text_is_a_choice_or_free():
    open_texts = []
    for part in parts():
        if isinstance(part, configs.ShapesConfig | configs.PhotosConfig | configs.CocoFolderConfig):
            continue  # names of files
        target = import_path.load(part.module) if nodes.is_node(part) else None
        hints = typing.get_type_hints(target) if isinstance(target, type) else {}
        _, place = placed(type(part)())
        for field in dataclasses.fields(part):
            hint = hints.get(field.name)
            is_choice = isinstance(hint, type) and issubclass(hint, Choice)
            is_choice |= f"{place}.{field.name}".removeprefix("config.") in validation.CHOICES
            free = field.name in ("module", "implementation") or (type(part).__name__, field.name) in FREE_TEXTS
            if field.type is str and not is_choice and not free and not isinstance(part, configs.CocoRecordsConfig):
                open_texts.append(f"{type(part).__name__}.{field.name}")
    assert open_texts == []


def test_an_implementation_that_is_none_is_named():
    for config, name in (placed(configs.DyHeadConfig(implementation="fast")), placed(configs.RepPointsConfig())):
        if name.endswith("head") and not name.endswith("dyhead"):
            config.model.head.implementation = "fast"
        with pytest.raises(ConfigError, match=rf"{name}\.implementation is 'fast'; it may be auto, gather, dense"):
            validate(config)


def test_what_does_not_fit_together_in_a_stored_config_is_named():
    """By the field, not by what fails when the model is built."""
    config = Config(model=configs.ModelConfig(head=configs.FCOSConfig()))
    configs.validate_stored(config, "run/config.json")
    config.model.neck.levels = 3
    with pytest.raises(ConfigError, match=r"^run/config\.json: config\.model\.head\.level_limits has 4 values"):
        configs.validate_stored(config, "run/config.json")
    config = Config()
    config.model.dyhead.spatial.module = "dyhead_jax.dyhead.spatial:Spatal"
    with pytest.raises(ConfigError, match=r"^run/config\.json: config\.model\.dyhead\.spatial: .* has no 'Spatal'"):
        configs.validate_stored(config, "run/config.json")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.neck.levels=0", "config.model.neck.levels is 0; it must be from 1 to 100"),
        ("data.flip=50", "config.data.flip is 50.0; it must be from 0 to 1"),
        ("model.pixel_std=0,0,0", "config.model.pixel_std is (0, 0, 0); it must be 3 values, each above 0"),
        ("optim.warmup_steps=-5", "config.optim.warmup_steps is -5; it must be at least 0"),
        ("data.workers=-1", "config.data.workers is -1; it must be at least 0"),
        ("model.dyhead.num_blocks=-1", "config.model.dyhead.num_blocks is -1; it must be from 0 to 100"),
        ("model.head.score_threshold=5", "config.model.head.score_threshold is 5.0; it must be from 0 to 1"),
        ("seed=-1", "config.seed is -1; it must be from 0 to 4294967295"),
        ("optim.learning_rate=nan", "config.optim.learning_rate is nan; it must be above 0"),
        (
            "data.canvases=64,80",
            "config.data.canvases is (64, 80); it must be a row, each of them (a whole number, a whole number), such as"
            " ((800, 1344), (1344, 800))",
        ),
        ("data.canvases=()", "config.data.canvases is (); it must be 1 or more values, each 2 values, each at least 1"),
        ("evaluation.size_ranges=((5,1),)", "config.evaluation.size_ranges has (5, 1); a range is low < high"),
        ("data.scale_jitter=(2,1)", "config.data.scale_jitter is (2, 1); it must be 0 < low <= high"),
    ],
)
def test_what_people_mistype_is_one_clear_line(argument, message):
    with pytest.raises(ConfigError) as error:
        flags.override(Config(), [f"--config.{argument}"])
    assert str(error.value).startswith(message)


def test_edges_lie_on_both_sides():
    inside, outside = edges(ranges.Range(0, 1, below=True), whole=False)
    assert inside == [0, math.nextafter(1, 0)]
    assert outside[3:] == [math.nextafter(0, -1), 1]
    assert edges(ranges.Range(1, 4), whole=True) == ([1, 4], [0, 5])
    assert edges(ranges.Each(ranges.COUNT, (2,)), whole=True) == ([(1, 1)], [(1, 0), (1,), (1, 1, 1)])
