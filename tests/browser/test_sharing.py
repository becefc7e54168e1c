"""What is taken away from the page, and brought back: code that runs, runs that play without a server, pictures that move."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.player import Player, link
from tests.browser.watched import Open
from tests.live_server import LiveServer, serving
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]
pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"
BODY = {
    "prompt": 'w3 it\'s "w4" $HOME\\n é\n',
    "seq_len": 40,
    "num_inference_steps": 12,
    "seed": 5,
    "model": "absorbing",
}


def code(page: Page, language: str) -> str:
    """The request as the page's dialog shows it."""
    page.get_by_role("button", name="Code").click()
    page.get_by_label(language, exact=True).check()
    text = page.get_by_label("Code", exact=True).input_value()
    page.get_by_role("button", name="Close").click()
    return text


def saved(page: Page, button: str, folder: Path) -> Path:
    """The file that a button gives."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def executed(command: list[str], **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients")]), **variables}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("key", [None, "s3cret"])
def test_copied_code_gives_the_same_tokens(tiny: Mapping[str, Checkpoint], open_page: Open, key: str | None) -> None:
    with serving(tiny, api_key=key) as server:
        page = open_page(server.url + link("/sample", BODY))
        if key is not None:
            page.get_by_label("Key", exact=True).fill(key)
            page.get_by_role("button", name="Use key").click()
        player = Player(page).begun()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        done = server.post("/sample", BODY | {"stream": False}, headers=headers).json()
        assert json.loads(code(page, "JSON")) == BODY
        curl, python = code(page, "curl"), code(page, "Python")
        assert key is None or (key not in curl and key not in python)
        told = executed(["sh", "-c", curl.replace("curl -N", "curl -N --silent --show-error")], TD_API_KEY=key or "")
        last = json.loads(re.findall(r"^data: (.*)$", told, re.MULTILINE)[-1])
        assert last["samples"] == done["samples"]
        assert executed([sys.executable, "-c", python], TD_API_KEY=key or "") == done["samples"][0]["text"] + "\n"
        player.page.close()


def test_the_link_is_copied(live: LiveServer, open_page: Open) -> None:
    page = open_page(live.url, permissions=["clipboard-read", "clipboard-write"])
    player = Player(page).begun()
    player.fill(seq_len=9, seed=3)
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied.startswith(live.url) and "seq_len=9" in copied and "seed=3" in copied


def test_a_saved_run_plays_where_there_is_no_server(live: LiveServer, open_page: Open, tmp_path: Path) -> None:
    player = Player(open_page(live.url + link("/sample/block", BODY | {"block_size": 8}))).begun()
    player.run()
    file = saved(player.page, "Save run", tmp_path)
    states = []
    for tick in range(player.last_tick + 1):
        player.press("Home", *["ArrowRight"] * tick)
        states.append((player.labels(), player.kinds()))
    other = Player(open_page(live.url)).begun()
    other.page.route("**/*", lambda route: route.abort())
    other.page.locator("#open-run").set_input_files(file)
    other.wait("done")
    assert other.last_tick == len(states) - 1
    for tick, shown in enumerate(states):
        other.press("Home", *["ArrowRight"] * tick)
        assert (other.labels(), other.kinds()) == shown
    again = saved(other.page, "Save run", tmp_path)
    assert json.loads(again.read_bytes()) == json.loads(file.read_bytes())


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "no saved run"),
        ('{"format": "token-diffusion-run", "version": 99, "runs": []}', "99"),
        ('{"format": "token-diffusion-run", "version": 1, "runs": [{}]}', "settings"),
        ('{"format": "<img src=x onerror=alert(1)>"}', "no saved run"),
    ],
)
def test_a_file_that_is_no_run_is_refused_in_a_line(
    live: LiveServer, open_page: Open, tmp_path: Path, text: str, word: str
) -> None:
    (tmp_path / "run.json").write_text(text)
    page = open_page(live.url)
    Player(page).begun()
    page.locator("#open-run").set_input_files(tmp_path / "run.json")
    expect(page.locator("#notice")).to_contain_text(word)


def test_a_saved_run_plays_on_a_page_that_has_met_no_server(live: LiveServer, open_page: Open, tmp_path: Path) -> None:
    player = Player(open_page(live.url + link("/sample", {"seq_len": 8, "num_inference_steps": 4}))).begun()
    player.run()
    file, labels = saved(player.page, "Save run", tmp_path), player.labels()
    other = Player(open_page(live.url, prepare=lambda page: page.route("**/ready", lambda route: route.abort())))
    other.page.locator("#open-run").set_input_files(file)
    other.wait("done")
    expect(other.page.locator("#notice")).to_contain_text("plays without")
    other.end()
    assert other.labels() == labels


def test_a_run_that_is_wrong_in_one_place_is_refused_in_a_line(live: LiveServer, open_page: Open) -> None:
    good: dict[str, dict[str, Any]] = {
        "start": {"model": "m", "process": "absorbing", "seed": 1, "num_inference_steps": 2, "tokens": [[4, 4]]},
        "state": {"step": 1, "t": 0.5, "nfe": 1, "changes": [[0, 0, 7]]},
        "done": {
            "samples": [{}],
            "step_map": [[1, 0]],
            "usage": {"prompt_tokens": 0, "completion_tokens": 2, "forwards_skipped": 0},
            "timings": {"total_ms": 1},
        },
    }
    page = open_page(live.url)
    Player(page).begun()

    def notice(**wrong: Any) -> str:
        data = {name: value | {key: wrong[key] for key in wrong if key in value} for name, value in good.items()}
        data["state"] |= {key: wrong[key] for key in ("keyframe",) if key in wrong}
        told = [{"event": name, "data": value} for name, value in data.items()]
        model = {"mask_token_id": 4, "mask_token": "[MASK]"}
        run = {"settings": {"endpoint": "/sample", "parameters": {}}, "model": model, "pieces": None, "events": told}
        archive = {"format": "token-diffusion-run", "version": 1, "runs": [run]}
        file = {"name": "run.json", "mimeType": "application/json", "buffer": json.dumps(archive).encode()}
        page.locator("#notice").evaluate("(notice) => { notice.textContent = ''; }")
        page.locator("#open-run").set_input_files(file)  # type: ignore[arg-type]
        expect(page.locator("#notice")).not_to_be_empty()
        return page.locator("#notice").inner_text()

    assert "plays without" in notice()
    for name, value in {
        "seed": {"a": 1},
        "model": 5,
        "process": None,
        "keyframe": 5,
        "changes": [[0, 9, 7]],
        "step_map": [[1]],
        "usage": {},
        "timings": {"total_ms": "1"},
        "samples": [5],
        "t": "0.5",
    }.items():
        told = notice(**{name: value})
        assert "cannot be opened" in told and name.replace("changes", "change") in told, told


def test_a_link_s_second_run_sends_only_what_is_known(live: LiveServer, open_page: Open) -> None:
    fragment = "#endpoint=%2Fsample&b.endpoint=%2Fsample&seq_len=8&b.seq_len=8&b.__proto__=1&b.nonsense=2"
    player = Player(open_page(live.url + fragment)).begun()
    expect(player.page.locator("#notice")).to_contain_text("does not know __proto__")
    player.run()
    expect(player.page.locator(".lane")).to_have_count(2)


def test_a_run_can_be_dropped_on_the_page(live: LiveServer, open_page: Open, tmp_path: Path) -> None:
    player = Player(open_page(live.url + link("/sample", {"seq_len": 8, "num_inference_steps": 4}))).begun()
    player.run()
    file, labels = saved(player.page, "Save run", tmp_path), player.labels()
    other = Player(open_page(live.url)).begun()
    files = other.page.evaluate_handle(
        """(text) => {
          const files = new DataTransfer();
          files.items.add(new File([text], "run.json", { type: "application/json" }));
          return files;
        }""",
        file.read_text(),
    )
    other.page.dispatch_event("body", "drop", {"dataTransfer": files})
    other.wait("done")
    other.end()
    assert other.labels() == labels


@pytest.mark.parametrize("process", ["absorbing", "uniform"])
def test_an_animation_shows_the_same_text_at_its_end_and_nothing_that_runs(
    live: LiveServer, open_page: Open, tmp_path: Path, process: str
) -> None:
    body = {"seq_len": 24, "num_inference_steps": 16, "seed": 5, "model": process}
    player = Player(open_page(live.url + link("/sample", body))).begun()
    player.run()
    file = saved(player.page, "Save animation", tmp_path)
    assert file.suffix == ".svg" and file.stat().st_size < 150_000
    tree = ET.parse(file)
    tags = {element.tag.removeprefix(SVG) for element in tree.iter()}
    assert tags <= {"svg", "title", "style", "rect", "text", "g", "animate"}
    attributes = [name for element in tree.iter() for name in element.attrib]
    assert not [name for name in attributes if name.startswith("on") or name.endswith("href")]
    assert "url(" not in file.read_text() and "@import" not in file.read_text()
    # What is there at the end: groups whose opacity is 1 then.
    page = open_page("about:blank")
    page.set_content(file.read_text())
    shown = page.evaluate("""() => {
      const svg = document.querySelector("svg");
      const seconds = parseFloat(svg.querySelector("animate").getAttribute("dur"));
      svg.pauseAnimations();
      svg.setCurrentTime(seconds * 0.995);
      const opaque = (element) => Number(getComputedStyle(element.parentElement).opacity) === 1;
      return [...svg.querySelectorAll("text")].filter(opaque)
        .map((text) => [Number(text.getAttribute("y")), Number(text.getAttribute("x")), text.textContent])
        .sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , text]) => text);
    }""")
    assert shown == [label for label in player.labels() if label]
