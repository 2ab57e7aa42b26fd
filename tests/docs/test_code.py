"""The Python blocks of a page run, in order, in one namespace and in an empty folder, and print what the page says."""

import contextlib
import importlib
import io

import numpy as np
import pytest

import dyhead_jax
from dyhead_jax import train
from dyhead_jax.config import Config, DataConfig, DyHeadConfig, FPNConfig, ModelConfig, OptimConfig, RunConfig
from tests.docs import pages

ELSEWHERE = {"export.md": "tests/export/test_stablehlo.py"}  # needs a trained model
LONG = {"image_to_ap.md"}  # compiles a detector


def with_code():
    for page in pages.PAGES:
        if page.name not in ELSEWHERE and any(block.language == "python" for block in pages.blocks(page)):
            yield pytest.param(page, id=page.stem, marks=pytest.mark.long if page.name in LONG else ())


@pytest.mark.parametrize("page", list(with_code()))
def test_the_blocks_of_a_page_run_and_print_what_it_says(page, folder):
    for name, text in pages.files(page).items():
        (folder / name).write_text(text)
    importlib.invalidate_caches()
    namespace = {"__name__": page.stem}
    blocks = pages.blocks(page)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language != "python" or block.title:
            continue
        code = compile("\n" * (block.line - 1) + block.text, page, "exec")  # errors then have the page's lines
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if following is not None and following.title == pages.OUTPUT:
            assert printed.getvalue() == following.text, f"{page.name}, line {following.line}"


@pytest.mark.long
def test_what_the_pages_add_is_trained_together(folder):
    """A backbone, a block, attentions, a detector and a source of the pages: one model, trained, evaluated and used."""
    parts = ("add_backbone", "add_block", "add_attention", "add_detector", "your_data")
    for name in parts:
        (folder / f"{name}.py").write_text(pages.files(pages.DOCS / f"{name}.md")["mine.py"])
    importlib.invalidate_caches()
    config = Config(
        model=ModelConfig(
            num_classes=1, neck=FPNConfig(features=8, start=1, levels=2), dyhead=DyHeadConfig(features=8)
        ),
        data=DataConfig(
            canvases=((32, 32),), short_side=(32,), long_side=32, batch_size=2, eval_batch_size=2, max_boxes=2
        ),
        optim=OptimConfig(name="adamw", offset_rate=0.1, warmup_steps=0),
        run=RunConfig(steps=2, figure_images=0, compilation_cache="off", parallel="single"),
    )
    config.model.backbone = {"module": "add_backbone:Strided", "width": 4}
    config.model.dyhead.num_blocks, config.model.dyhead.block = 1, "add_block:Residual"
    config.model.dyhead.spatial, config.model.dyhead.task = "add_attention:MySpatial", "add_attention:TwoGates"
    config.model.head = "add_detector:Plain"
    config.data.source = {"module": "your_data:Squares", "images": 4, "size": 32}
    assert train.train(config, folder / "run") == 0
    model = dyhead_jax.load(folder / "run", trust=parts)
    assert model.class_names == ("square",)
    assert model(np.zeros((32, 32, 3), np.uint8)).boxes.shape[1:] == (4,)


def test_every_output_follows_a_block():
    for page in pages.PAGES:
        blocks = pages.blocks(page)
        for before, block in zip([None, *blocks], blocks, strict=False):
            if block.title == pages.OUTPUT:
                assert before is not None, page.name
                assert (before.language, before.title) == ("python", ""), f"{page.name}, line {block.line}"


def test_the_code_that_runs_elsewhere_does():
    for page, test in ELSEWHERE.items():
        assert page in (pages.ROOT / test).read_text()
