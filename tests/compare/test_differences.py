"""In which options configs differ, and what of that a table has to say aloud."""

from dyhead_jax import config as configs
from dyhead_jax.compare import differences
from tests.compare.made_up import config


def texts(other, first=None):
    return [str(one) for one in differences.find(first or config(), other)]


def test_each_option_by_its_name():
    other = config(log_every=7)
    other.seed, other.run.compilation_cache = 5, "elsewhere"  # neither is compared
    other.model.dyhead.num_blocks = 2
    other.data.canvases = ((64, 64),)
    assert texts(other) == [
        "model.dyhead.num_blocks 2 (first: 6)",
        "data.canvases [[64, 64]] (first: [[800, 1344], [1344, 800]])",
        "run.log_every 7 (first: 50)",
    ]
    assert texts(config()) == []


def test_a_part_of_another_class_is_one_difference():
    other = config()
    other.model.head = configs.FCOSConfig()
    other.model.dyhead.task = "none"
    other.model.dyhead.scale = "tests.compare.test_differences:Scale"
    assert texts(other) == [
        "model.dyhead.scale tests.compare.test_differences:Scale(width=3)"
        " (first: dyhead_jax.dyhead.scale:ScaleAttention)",
        "model.dyhead.task none (first: dyhead_jax.dyhead.task:TaskAttention(reduction=4))",
        "model.head FCOSConfig (first: ATSSConfig)",
    ]
    wider = configs.from_json(configs.to_json(other), trust=["tests"])
    wider.model.dyhead.scale.width = 4
    assert texts(wider, other) == ["model.dyhead.scale.width 4 (first: 3)"]


class Scale:
    def __init__(self, width: int = 3):
        self.width = width


def test_options_of_no_blocks_are_no_difference():
    plain, other = config(), config()
    plain.model.dyhead.num_blocks, plain.model.dyhead.task = 0, "none"
    other.model.dyhead.norm_scale = 3.0
    other.model.neck.features = 128
    wanted = ["model.neck.features 128 (first: 256)", "model.dyhead.num_blocks 6 (first: 0)"]
    assert texts(other, plain) == wanted
    plain.model.dyhead.num_blocks = other.model.dyhead.num_blocks = 2
    assert len(texts(other, plain)) == 3
    assert texts(other, plain) != wanted


def test_another_training_is_told_from_another_model():
    longer, model, both = config(), config(), config()
    longer.run.steps = 12
    model.model.neck.features = both.model.neck.features = 128
    both.model.init, both.data.batch_size = "runs/other", 8
    others = {"longer": longer, "model": model, "both": both, "same": config()}
    found = {name: differences.find(config(), other) for name, other in others.items()}
    assert differences.notes(found, dict.fromkeys(others, "first")) == [
        "",
        "**Not the same training**: besides the model these differ, and may be what the table shows:",
        "",
        "- `longer`: run.steps 12 (first: 6)",
        '- `both`: model.init "runs/other" (first: ""); data.batch_size 8 (first: 4)',
        "",
        "What differs in the model:",
        "",
        "- `model`: model.neck.features 128 (first: 256)",
        "- `both`: model.neck.features 128 (first: 256)",
        "",
        "The same config as `first`: `same`",
    ]
    assert differences.notes({}, {}) == []
