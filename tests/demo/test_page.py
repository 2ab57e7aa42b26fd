"""The page in a browser: a picture in, boxes out, the threshold, a click, errors as a line."""

import base64
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from dyhead_jax.demo.server import MAX_UPLOAD
from tests.demo.serving import FixedAnswers, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` (Playwright) is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian package chromium)")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)  # in a new profile of its own
        yield browser
        browser.close()


@pytest.fixture
def answers():
    return FixedAnswers()


@pytest.fixture
def page(browser, answers):
    """The page, on a server of its own; a test fails if the browser reports an error."""
    with serving(answers) as server:
        context = browser.new_context(viewport={"width": 1000, "height": 800})
        page = context.new_page()
        problems, requests = [], []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(server.address)
        yield page
        context.close()
        expected = [text for text in problems if "status of 400" in text]  # of a bad upload, which the page reports
        assert problems == expected
        own = (server.address, f"blob:{server.address}", "data:")
        assert [url for url in requests if not url.startswith(own)] == []


def png(width=400, height=200):
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def choose(page, data=None, name="photo.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": png() if data is None else data})


def texts(page, selector):
    return page.locator(selector).all_text_contents()


def test_boxes_classes_and_time_appear(page):
    assert texts(page, "#classes .name") == ["</script><b>cat</b>", "dog"]
    assert page.locator("#stage").is_hidden()
    choose(page)
    page.wait_for_selector("rect.box", state="attached")
    assert page.text_content("#message") == "400 × 200 pixels, 12.5 ms"
    assert page.locator("rect.box").count() == 2  # the third is scored below the threshold
    assert sorted(texts(page, "#overlay text")) == ["</script><b>cat</b> 0.90", "dog 0.50"]
    assert texts(page, "#classes .count") == ["1", "1"]
    stage, box = page.locator("#stage").bounding_box(), page.locator("rect.box").last.bounding_box()
    assert box["width"] == pytest.approx(stage["width"] / 2, abs=3)  # half of the picture, with the line
    assert box["height"] == pytest.approx(stage["height"] / 2, abs=3)


def test_the_slider_hides_boxes_and_counts_them(page):
    choose(page)
    page.wait_for_selector("rect.box", state="attached")
    for score, boxes, counts in [("0.1", 3, ["2", "1"]), ("0.6", 1, ["1", "0"]), ("0.95", 0, ["0", "0"])]:
        page.locator("#score").fill(score)
        assert page.locator("rect.box").count() == boxes
        assert texts(page, "#classes .count") == counts
        assert page.text_content("#score_text") == f"{float(score):.2f}"
    page.locator("#score").fill("0.1")
    page.click("#classes button:has-text('dog')")  # a class is switched off and on
    assert page.locator("rect.box").count() == 1
    page.click("#classes button:has-text('dog')")
    assert page.locator("rect.box").count() == 3


def test_a_click_shows_samples(page, answers):
    choose(page)
    page.wait_for_selector("rect.box", state="attached")
    stage = page.locator("#stage").bounding_box()
    page.mouse.click(stage["x"] + stage["width"] * 0.75, stage["y"] + stage["height"] * 0.25)
    page.wait_for_selector(".tap", state="attached")
    (((x, y), level, box),) = answers.asked
    assert (x, y) == (pytest.approx(300, abs=1), pytest.approx(50, abs=1))
    assert (level, box) == (None, None)  # no box is there
    assert page.locator("circle.tap").count() == 9
    assert page.locator("polygon.tap").count() == 4
    assert page.text_content("#taps_text") == "Samples: ● own level 9 (and 2 beside the picture), ◆ coarser level 4."
    assert float(page.locator("circle.tap").nth(4).get_attribute("cx")) == pytest.approx(x)
    page.click("text=composed")
    assert page.locator(".tap").count() == 5
    assert page.text_content("#taps_text") == "Samples: ● own level 5 (and 7 lighter ones)."
    page.click("text=block 1")
    page.click("text=stride 16")
    page.wait_for_selector("button[aria-pressed=true]:has-text('stride 16')")
    assert answers.asked[-1][1] == 1
    page.click("text=hide")
    assert page.locator(".tap").count() == 0
    page.mouse.click(stage["x"] + stage["width"] * 0.25, stage["y"] + stage["height"] * 0.25)
    page.wait_for_selector(".tap", state="attached")
    assert answers.asked[-1][2] == [0, 0, 200, 100]  # the box around the point


def test_errors_are_a_line_on_the_page_and_the_next_picture_works(page, tmp_path):
    choose(page, b"hello", "text.png")
    page.wait_for_selector("#message.error")
    assert page.text_content("#message").startswith("Error: the picture: empty, or not an image of a known format")
    (tmp_path / "big.png").write_bytes(bytes(MAX_UPLOAD + 1))
    page.set_input_files("#file", tmp_path / "big.png")
    page.wait_for_function("document.getElementById('message').textContent.includes('larger than 20 MB')")
    choose(page)
    page.wait_for_selector("rect.box", state="attached")
    assert page.locator("#message.error").count() == 0


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page, event):
    page.evaluate(
        """([event, encoded]) => {
            const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "photo.png", { type: "image/png" }));
            const made = event === "drop" ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true })
                : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
            document.body.dispatchEvent(made);
        }""",
        [event, base64.b64encode(png()).decode()],
    )
    page.wait_for_selector("rect.box", state="attached")
    assert page.text_content("#message").startswith("400 × 200 pixels")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_it_fits_a_phone_and_follows_the_colour_scheme(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    choose(page)
    page.wait_for_selector("rect.box", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    brightness = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)"
    )
    assert (brightness < 380) == (scheme == "dark")
