"""The page, in a real browser."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hyperloader.serving.page import FILE

HTML = 'play <img src=x onerror="document.title=1"> by \U0001d48e carlos'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_it_runs_nothing_but_its_own_script(server):
    found = server.call("GET", "/")
    policy = found.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "'unsafe" not in policy and "frame-ancestors 'none'" in policy
    text = found.text.decode()
    assert "http:" not in text and "https:" not in text and "innerHTML" not in text and "style=" not in text


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js")
def test_the_best_labels_come_first_even_of_whole_numbers():
    (function,) = re.findall(r"^function scores.*?^}", FILE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    script = (
        function
        + """
    const made = (tag, text) => ({text, parts: [], append(...some) { this.parts.push(...some); }, setAttribute() {}});
    const answer = {label: "b", scores: {b: 0.7, 10: 0.2, 2: 0.1}};
    console.log(JSON.stringify(scores(answer).parts.map((one) => one.text)));
    """
    )
    found = json.loads(subprocess.run(["node", "-e", script], capture_output=True, check=True).stdout)
    assert found[::3] == ["b", "10", "2"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_text_is_read_by_every_chosen_task(server):
    """With the keyboard alone. HYPERLOADER_SCREENSHOT is where a picture is put."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 760})
        requested, faults = [], []
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.get_by_label("to/pics <b>🎵").wait_for()
        assert page.get_by_role("checkbox").count() == 5
        page.get_by_label("Text", exact=True).fill(HTML)
        page.keyboard.press("Control+Enter")
        page.get_by_role("status").get_by_text("4 answers in").wait_for()
        (music,) = (
            one
            for one in page.get_by_role("article").all()
            if one.get_by_role("heading").inner_text().startswith("music")
        )
        marks = [one.evaluate("one => one.firstChild.textContent") for one in music.locator("mark").all()]
        body = {"inputs": [{"text": HTML, "task": "music"}]}
        spans = server.call("POST", "/v1/predict", body).json["answers"][0]["spans"]
        assert spans and marks == [span["text"] for span in spans]
        plain = music.locator(".read").evaluate(
            "one => Array.from(one.childNodes, (node) => (node.firstChild || node).textContent).join('')"
        )
        assert plain == HTML
        assert page.locator("img").count() == 0 and page.title() == "hyperloader"
        assert "topic" not in page.title() and page.locator("article b").count() == 0
        assert page.get_by_role("meter").count() >= 2
        page.get_by_role("button", name="None").focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Read").focus()
        page.keyboard.press("Enter")
        assert page.get_by_role("alert").inner_text() == "Choose a task."
        assert {url.split("/", 3)[2] for url in requested if url.startswith("http")} == {f"127.0.0.1:{server.port}"}
        assert faults == []
        if "HYPERLOADER_SCREENSHOT" in os.environ:
            page.get_by_role("button", name="All").press("Enter")
            page.get_by_label("Text", exact=True).fill("play silver river by carlos and wake me at six")
            page.get_by_label("Second text").fill("add midnight garden")
            page.keyboard.press("Tab")
            page.get_by_role("button", name="Read").press("Enter")
            page.get_by_role("status").get_by_text("5 answers in").wait_for()
            page.screenshot(path=Path(os.environ["HYPERLOADER_SCREENSHOT"]), full_page=True)
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_key_is_asked_for(start, folder):
    playwright = pytest.importorskip("playwright.sync_api")
    with start({"run": folder}, api_key="secret-key") as server, playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.get_by_label("API key").fill("secret-key")
        page.keyboard.press("Enter")
        page.get_by_role("checkbox").first.wait_for()
        page.keyboard.press("Enter")
        page.get_by_role("status").get_by_text("4 answers in").wait_for()
        browser.close()
