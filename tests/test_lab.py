"A stage notebook as a reader has it: JupyterLab in a browser, Run All, what can be seen, in both themes."

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from test_review import browser  # noqa: F401

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {  # every cell is in the page, and nothing is asked
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
# Text and what lies behind it, of the outputs: the words, their colour, the background of the nearest one that has any.
SEEN = """() => [...document.querySelectorAll('.jp-OutputArea-output *')]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.getClientRects().length)
  .map(e => {
    let behind = e, colour;
    while ((colour = getComputedStyle(behind).backgroundColor).match(/(, 0\\)|transparent)$/) && behind.parentElement)
      behind = behind.parentElement;
    return [e.textContent.trim().slice(0, 40), getComputedStyle(e).color, colour];
  })"""

IDLE = "() => document.querySelector('#jp-main-statusbar').innerText.includes('| Idle')"
RUN = """() => [...document.querySelectorAll('.jp-CodeCell')]
  .filter(cell => cell.querySelector('.cm-content').innerText.trim())
  .every(cell => /\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').innerText))"""


def contrast(one: str, other: str) -> float:
    "WCAG's ratio of two colours as a browser writes them, 1 to 21."

    def luminance(colour: str) -> float:
        parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture(scope="module")
def lab(finished, tmp_path_factory) -> str:
    "The address of a JupyterLab with 16_merge, beside a run that has what it reads."
    pytest.importorskip("jupyterlab", reason="needs jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "nbs" / "16_merge.ipynb", folder)
    shutil.copytree(finished[0] / "runs" / "small", folder / "runs" / "demo")
    shutil.rmtree(folder / "runs" / "demo" / "16_merge")
    for name, content in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mine = {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "spaces")}
    mine |= {"FINERWEB_HOME": str(folder / "runs"), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    options = [f"--ServerApp.port={port}", "--IdentityProvider.token=", "--no-browser", "--allow-root"]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={folder}"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, env=os.environ | mine, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.5)
        yield address
    finally:
        server.kill()  # its kernels see that it is gone, and end
        server.wait(60)


@pytest.fixture(scope="module")
def page(lab, browser):  # noqa: F811
    "16_merge in a headless Chromium, all its cells run."
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(240_000)
    page.goto(f"{lab}/lab/tree/16_merge.ipynb")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_function(IDLE)
    choose(page, "Run", "Run All Cells")
    page.wait_for_function(RUN)
    page.wait_for_function(IDLE)
    yield page
    page.close()


def choose(page, *words: str) -> None:
    "Takes a menu's entry: `words` are the menu, its entries on the way, and the entry."
    page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{words[0]}$")).click()
    for word in words[1:]:
        page.locator(".lm-Menu-item:visible", has_text=re.compile(f"^{word}")).first.click()


def test_run_all_shows_the_table_and_the_entities_and_no_error(page):
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator(".jp-RenderedHTMLCommon table").count() >= 1
    marks = page.locator(".jp-RenderedHTMLCommon mark").all_inner_texts()
    assert marks and all(len(mark.split()) >= 2 for mark in marks), "a mention and its label"


def test_outputs_stay_in_the_page(page):
    boxes = page.eval_on_selector_all(
        ".jp-OutputArea-output", "all => all.map(e => [e.scrollWidth - e.clientWidth, e.clientHeight])"
    )
    assert boxes and max(width for width, _ in boxes) <= 1 and max(height for _, height in boxes) < 1500


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_all_that_is_shown_can_be_read(page, theme, tmp_path):
    choose(page, "Settings", "Theme", theme)
    page.wait_for_selector(f"body[data-jp-theme-name='{theme}']", state="attached")
    page.wait_for_timeout(1000)
    seen = page.evaluate(SEEN)
    assert len(seen) > 30
    faint = [words for words, colour, behind in seen if contrast(colour, behind) < 4.5]
    assert not faint, f"{theme}: {faint[:5]}"
    if folder := os.environ.get("FINERWEB_SCREENSHOTS"):
        page.locator(".jp-RenderedHTMLCommon mark").last.scroll_into_view_if_needed()
        page.screenshot(path=Path(folder, f"16_merge-{theme.split()[-1].lower()}.png"))
