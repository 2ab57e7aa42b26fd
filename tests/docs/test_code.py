"""The Python blocks of a page run, in order, in one namespace and in an empty folder, and print what the page says."""

import contextlib
import importlib
import io

import pytest

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
