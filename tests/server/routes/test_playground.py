"""The playground in a real browser. Skipped, visibly, if Chromium is not installed."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from server.routes.playground import TYPES

from ..conftest import API_KEY
from ..live import LiveServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
MILLISECONDS = 60_000
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: LiveServer) -> Iterator[Page]:
    """The page, open and connected. It must send requests only to this server, and log no error."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    expect.set_options(timeout=MILLISECONDS)
    messages: list[str] = []
    page.on("console", lambda line: messages.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: messages.append(str(error)))
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(server.url)
    expect(page.locator("#model")).to_have_text("demo")
    yield page
    context.close()
    refusals = "Failed to load resource: the server responded with a status of 4"
    assert [text for text in messages if not text.startswith(refusals)] == []
    assert [url for url in urls if not url.startswith((server.url, "data:", "blob:"))] == []


@needs_chromium
def test_playground_shows_previews_then_image(page: Page, tmp_path: Path) -> None:
    page.keyboard.press("/")
    page.keyboard.type("a blue square")
    page.locator("#steps").fill("12")
    page.locator("#seed").fill("4")
    page.keyboard.press("/")  # types nothing: the seed is a field
    page.locator("#seed").fill("4")
    page.locator("#prompt").press("Enter")
    expect(page.locator("figure.generating.seen img")).to_have_count(1)  # a preview
    expect(page.locator("#status")).to_have_text(re.compile(r"step \d+ of 12"))
    expect(page.locator("figure:not(.generating) img")).to_have_count(1)
    expect(page.locator("#caption")).to_contain_text("a blue square · 256x256 · 12 steps · guidance 4.5 · seed 4")
    width = page.locator("#stage img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert width == 256
    expect(page.locator("#gallery img")).to_have_count(1)
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "sana-4.png"


@needs_chromium
def test_playground_gallery_of_several_images(page: Page) -> None:
    page.locator("#prompt").fill("a red circle")
    page.locator("#size").select_option("custom")
    page.locator("#custom-size").fill("65 \u00d7 90")
    page.locator("#n").fill("3")
    page.locator("#steps").fill("2")
    page.locator("#generate").click()
    expect(page.locator("#gallery img")).to_have_count(3)
    expect(page.locator("#status")).to_contain_text("3 images in")
    expect(page.locator("#caption")).to_contain_text("65x90")
    page.locator("body").click(position={"x": 5, "y": 5})
    first = page.locator("#caption").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#caption").inner_text() != first
    expect(page.locator("#stage img")).to_have_count(1)
    page.locator("#reuse").click()
    assert re.fullmatch(r"\d+", page.locator("#seed").input_value())
    assert page.locator("#custom-size").input_value() == "65 \u00d7 90"


@needs_chromium
def test_playground_edits_an_image_within_a_painted_mask(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), (200, 30, 30)).save(tmp_path / "in.png")
    page.locator("#file").set_input_files(tmp_path / "in.png")
    box = page.locator("#canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.7)
    page.mouse.up()
    expect(page.locator("#strength")).to_have_value("1")
    page.locator("#prompt").fill("a blue square")
    page.locator("#steps").fill("3")
    page.locator("#generate").click()
    expect(page.locator("#caption")).to_contain_text("a blue square · 96x64 · 3 steps")
    pixel = """image => image.decode().then(() => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 96, height: 64 });
        canvas.getContext("2d").drawImage(image, 0, 0);
        return [...canvas.getContext("2d").getImageData(5, 5, 1, 1).data];
    })"""
    assert page.locator("#stage img").evaluate(pixel) == [200, 30, 30, 255]  # beside the paint
    after = page.locator("#stage img").get_attribute("src")
    page.locator("#compare").press("Enter")
    expect(page.locator("#compare")).to_have_text("Show after")
    assert page.locator("#stage img").get_attribute("src") != after
    page.locator("#compare").press("Enter")
    assert page.locator("#stage img").get_attribute("src") == after


@needs_chromium
def test_playground_mask_by_keyboard(page: Page) -> None:
    page.locator("#prompt").fill("a red circle")
    page.locator("#steps").fill("1")
    page.locator("#generate").click()
    page.locator("#repaint").click()
    expect(page.locator("#canvas")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#strength")).to_have_value("0.6")
    page.keyboard.press("Space")
    expect(page.locator("#strength")).to_have_value("1")
    page.locator("#clear-mask").press("Enter")
    expect(page.locator("#strength")).to_have_value("0.6")
    page.locator("#remove").press("Enter")
    expect(page.locator("#source")).to_be_hidden()
    expect(page.locator("#choose")).to_be_focused()


@needs_chromium
def test_playground_empty_prompt_uses_placeholder(page: Page) -> None:
    page.locator("#steps").fill("1")
    page.locator("#generate").click()
    expect(page.locator("#caption")).to_contain_text("a red circle left of a blue square · 256x256 · 1 steps")


@needs_chromium
def test_playground_gallery_keyboard_keeps_focus(page: Page) -> None:
    page.locator("#prompt").fill("a red circle")
    page.locator("#n").fill("2")
    page.locator("#steps").fill("1")
    page.locator("#seed").fill("7")
    page.keyboard.press("Enter")  # in any field
    thumbnails = page.locator("#gallery button")
    expect(thumbnails).to_have_count(2)
    expect(page.locator("#generate")).to_be_enabled()
    page.locator("#copy-python").focus()
    for number in (0, 1):
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(thumbnails.nth(number)).to_be_focused()
        expect(thumbnails.nth(number)).to_have_attribute("aria-current", "true")
        expect(page.locator("#gallery [aria-current=true]")).to_have_count(1)
        assert thumbnails.nth(number).evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    assert sorted(page.locator("#gallery img").evaluate_all("images => images.map(image => image.alt)")) == [
        "a red circle, seed 7",
        "a red circle, seed 8",
    ]


@needs_chromium
def test_playground_controls_have_names(page: Page) -> None:
    unnamed = """controls => controls.filter(one =>
        !(one.labels?.[0]?.textContent ?? one.ariaLabel ?? one.textContent).trim()).map(one => one.id)"""
    assert page.locator("button, input, select, textarea, summary").evaluate_all(unnamed) == []


@needs_chromium
def test_playground_progress_bar_without_layout_shift(page: Page) -> None:
    """In a live region a screen reader would read every step."""

    def heights() -> list[float]:
        boxes = [page.locator(name).bounding_box() for name in ("#generate", "#size", "#n", "#settings")]
        assert all(boxes)
        assert boxes[1]["y"] == boxes[2]["y"]  # type: ignore[index]
        assert boxes[1]["height"] == boxes[2]["height"]  # type: ignore[index]
        return [value for box in boxes if box for value in (box["y"], box["height"])]

    page.locator("#steps").fill("60")
    before = heights()
    page.locator("#prompt").press("Enter")
    expect(page.get_by_role("progressbar", name="Image 1")).to_have_attribute("aria-valuenow", re.compile(r"^[1-9]"))
    assert page.locator("#status").get_attribute("aria-live") == "off"
    assert heights() == before
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("cancelled after")
    assert page.locator("#status").get_attribute("aria-live") == "polite"


@needs_chromium
def test_playground_cancel_ends_request(page: Page, server: LiveServer) -> None:
    page.locator("#prompt").fill("a slow cat")
    page.locator("#steps").fill("60")
    page.locator("#n").fill("5")
    page.locator("#generate").click()
    expect(page.locator("#status")).to_have_text(re.compile(r"step \d+ of 60"))
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("cancelled after")
    expect(page.locator("#generate")).to_be_enabled()
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.locator("figure.generating")).to_have_count(0)


@needs_chromium
def test_playground_shows_server_error(page: Page) -> None:
    page.locator("#prompt").fill("a cat")
    page.locator("#size").select_option("custom")
    page.locator("#custom-size").fill("31x64")
    page.locator("#prompt").press("Enter")
    expect(page.locator("#status")).to_contain_text("nearest valid size is 32x64")


@needs_chromium
def test_playground_copies_curl_and_python(page: Page, server: LiveServer, http: httpx.Client) -> None:
    page.locator("#prompt").fill('it\'s a "red" circle')
    page.locator("#steps").fill("1")
    page.locator("#generate").click()
    expect(page.locator("#gallery img")).to_have_count(1)
    page.locator("#copy-python").click()
    expect(page.locator("#copy-python")).to_have_text("Copied")
    program = page.evaluate("navigator.clipboard.readText()")
    compile(program, "copied", "exec")
    assert f'base_url="{server.url}/v1"' in program
    page.locator("#copy-curl").click()
    expect(page.locator("#copy-curl")).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith(f"curl {server.url}/v1/images/generations")
    assert "it'\\''s a" in command


@needs_chromium
def test_playground_requests_key_and_keeps_it(browser: Browser, guarded_server: LiveServer) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    keys: list[str | None] = []
    page.on(
        "request", lambda request: keys.append(request.headers.get("authorization")) if "/v1/" in request.url else None
    )
    page.goto(guarded_server.url)
    expect(page.locator("#model")).to_have_text("API key required")
    expect(page.locator("#key")).to_be_focused()
    expect(page.locator("#key")).to_have_value("")
    expect(page.locator("#status")).to_contain_text("You didn't provide an API key")
    page.locator("#key").fill("wrong")
    page.keyboard.press("Enter")  # generates nothing yet
    expect(page.locator("#status")).to_contain_text("Incorrect API key")
    page.locator("#key").fill(API_KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_text("demo")
    page.reload()
    expect(page.locator("#model")).to_have_text("demo")
    assert keys == [None, "Bearer wrong", f"Bearer {API_KEY}", f"Bearer {API_KEY}"]
    page.locator("#settings summary").click()
    page.locator("#steps").fill("1")
    page.locator("#prompt").press("Enter")
    expect(page.locator("#gallery img")).to_have_count(1)
    context.close()


@needs_chromium
@pytest.mark.parametrize(("name", "width", "scheme"), [("phone", 390, "light"), ("desktop", 1280, "dark")])
def test_playground_layout_and_themes(
    browser: Browser, server: LiveServer, name: str, width: int, scheme: str, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#model")).to_have_text("demo")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    stage, form = page.locator("#stage").bounding_box(), page.locator("#form").bounding_box()
    assert stage
    assert form
    below = stage["y"] - form["y"] - form["height"]
    assert below == 18 if name == "phone" else stage["x"] == form["x"] + form["width"] + 28
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    page.reload()  # the choice is kept
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    page.screenshot(path=tmp_path / f"{name}.png")
    context.close()


@pytest.mark.parametrize("name", ["", *(f"static/{name}" for name in TYPES)])
def test_playground_files_name_no_other_host(http: httpx.Client, name: str) -> None:
    response = http.get(f"/{name}")
    assert response.status_code == 200
    assert not re.search(r"https?://|//cdn|@import|\burl\(", response.text)
    assert "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["x.js", "..%2fapp.py", "%2e%2e/app.py", "style.css/x"])
def test_unknown_static_file_gets_404(http: httpx.Client, name: str) -> None:
    response = http.get(f"/static/{name}")
    assert response.status_code == 404
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
