"""The decoders on the page: how sure the model was, as colour, and what was set anew or taken back, told apart."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.player import Player, link, pieces
from tests.browser.saved import MASK, archive, opened
from tests.browser.watched import Open
from tests.live_server import LiveServer

pytest_plugins = ["tests.server_fixtures"]
pytestmark = pytest.mark.browser


def logs(*probabilities: float | None) -> list[float | None]:
    return [None if p is None else math.log(p) for p in probabilities]


STATES: list[dict[str, Any]] = [
    {"step": 1, "changes": [[0, 0, 5], [0, 1, 8]], "logprobs": logs(0.83, 0.02)},
    {"step": 2, "changes": [[0, 1, MASK], [0, 2, 6]], "logprobs": logs(None, 0.5)},
    {"step": 3, "changes": [[0, 1, 6], [0, 2, 7], [0, 3, 8]], "logprobs": logs(0.999, 0.4, None)},
]
"""Position 1 is taken back and set again, 2 is set to another token, and of 3 it is not told how probable it was."""
TOLD = archive(STATES, [1, 3, 3, 3], logs(0.83, 0.999, 0.4, None))
OLD = archive([{name: state[name] for name in ("step", "changes")} for state in STATES], [1, 3, 3, 3])


def said(player: Player, position: int) -> str:
    """What is told of the cell at this position."""
    cell = player.grid().locator("span").nth(position)
    cell.hover()
    player.drawn()
    told = player.page.locator(".inspector").inner_text()
    assert cell.get_attribute("title") == told
    return told


def again(player: Player) -> list[int]:
    return [position for position, kinds in enumerate(player.kinds()) if "again" in kinds]


def test_confidence_is_a_colour_and_a_cell_tells_its_history(live: LiveServer, open_page: Open) -> None:
    player = opened(live, open_page, TOLD)
    expect(player.page.get_by_label("Confidence")).to_be_checked()  # as when it was saved
    kinds = player.kinds()
    heats = [next((name for name in sorted(names) if name.startswith("heat-")), None) for names in kinds]
    assert heats == [f"heat-{int(math.sqrt(0.83) * 16)}", "heat-15", f"heat-{int(math.sqrt(0.4) * 16)}", None]
    assert "untold" in kinds[3]
    assert again(player) == [1, 2]
    legend = player.page.locator("#legend")
    for word in ("unsure", "sure", "not told", "rewritten", "taken back"):
        expect(legend).to_contain_text(word)
    assert "set at step 1, p = 0.83" in said(player, 0)
    assert said(player, 1).endswith(
        "set at step 3, p = 1.00 · before: “d” at step 1, p = 0.02, then taken back at step 2"
    )
    assert said(player, 2).endswith("set at step 3, p = 0.40 · before: “b” at step 2, p = 0.50")
    assert said(player, 3).endswith("set at step 3")
    expect(player.page.locator(".facts")).to_contain_text("2 rewrites · ")
    player.press("ArrowLeft")
    assert again(player) == [1] and "mask" in player.kinds()[1], "it is taken back, and has not been set again"
    assert player.page.locator(".facts").inner_text().count("rewrite") == 0
    player.press("Home", "ArrowRight")  # sought from the beginning, which knew of no probabilities
    assert (
        f"heat-{int(math.sqrt(0.83) * 16)}" in player.kinds()[0]
        and f"heat-{int(math.sqrt(0.02) * 16)}" in player.kinds()[1]
    )


def test_an_old_saved_run_tells_of_no_confidence_but_of_rewrites(live: LiveServer, open_page: Open) -> None:
    player = opened(live, open_page, OLD)
    expect(player.page.get_by_label("Confidence")).to_be_hidden()
    expect(player.page.get_by_label("Age", exact=True)).to_be_checked()
    assert again(player) == [1, 2]
    assert "p =" not in said(player, 1)


def test_an_animation_has_both(live: LiveServer, open_page: Open) -> None:
    player = opened(live, open_page, TOLD)
    with player.page.expect_download() as download:
        player.page.get_by_role("button", name="Save animation").click()
    shapes = [shape for shape in ET.parse(download.value.path()).iter() if shape.tag.endswith("rect")]
    named = [(shape.get("class"), shape.get("fill-opacity")) for shape in shapes]
    assert sorted(name for name, _ in named if name == "again") == ["again"] * 2
    sure = [float(opacity or 1) for name, opacity in named if name == "sure"]
    assert sorted(sure) == sorted(round(math.sqrt(p), 2) for p in (0.83, 0.02, 0.999, 0.5, 0.4))


def sent(player: Player) -> dict[str, Any]:
    """The request as the page would send it."""
    player.page.get_by_role("button", name="Code").click()
    player.page.get_by_label("JSON").check()
    body: dict[str, Any] = json.loads(player.page.get_by_label("Code", exact=True).input_value())
    player.page.get_by_role("button", name="Close").click()
    return body


def test_a_decoder_is_chosen_among_those_that_fit_with_its_options_alone(live: LiveServer, open_page: Open) -> None:
    player = Player(open_page(live.url)).begun()
    decoder = player.page.get_by_label("Decoder")
    samplers = {model["name"]: model["samplers"] for model in live.get("/models").json()["models"]}
    player.field("Model").select_option("absorbing")
    assert decoder.locator("option").all_inner_texts() == [sampler["name"] for sampler in samplers["absorbing"]]
    decoder.select_option("confidence")
    (told,) = (sampler for sampler in samplers["absorbing"] if sampler["name"] == "confidence")
    about = f"{told['summary']}; approximate: not the model's law"
    expect(decoder).to_have_accessible_description(about)
    expect(player.page.get_by_text(about)).to_be_visible()
    threshold = player.field("threshold")
    threshold.fill("0.9")
    player.field("quota").select_option("even")  # its default, which need not be said
    player.fill(seq_len=12, num_inference_steps=4, seed=3)
    asked = {"model": "absorbing", "seq_len": 12, "num_inference_steps": 4, "seed": 3}
    assert sent(player) == asked | {"sampler": "confidence", "threshold": 0.9}
    player.run()
    expect(player.page.locator(".facts")).to_contain_text(" · confidence · ")
    address = player.page.url
    decoder.select_option("ancestral")
    expect(threshold).to_be_hidden()
    assert sent(player) == asked, "what is another decoder's is not sent"
    decoder.select_option("margin")
    assert sent(player)["threshold"] == 0.9, "but stays where it is the same option"
    player.field("Model").select_option("uniform")
    assert "sampler" not in sent(player)
    expect(player.page.get_by_text("margin is not for the uniform process")).to_be_visible()
    again = Player(open_page(address)).begun()
    expect(again.page.get_by_label("Decoder")).to_have_value("confidence")
    expect(again.page.get_by_label("threshold", exact=True)).to_have_value("0.9")
    again.run()
    assert again.labels() == player.labels()


def test_what_a_decoder_refuses_is_said_beside_its_option(live: LiveServer, open_page: Open) -> None:
    body = {"model": "absorbing", "sampler": "confidence", "threshold": 0.9, "factor": 1, "seq_len": 8}
    player = Player(open_page(live.url + link("/sample", body))).begun()
    player.start()
    player.wait("error")
    error = live.post("/sample", body).json()["error"]
    expect(player.page.get_by_label(error["param"], exact=True)).to_have_attribute("aria-invalid", "true")
    expect(player.page.get_by_text(error["message"]).first).to_be_visible()
    other = Player(open_page(live.url + link("/sample", body | {"sampler": "ancestral"}))).begun()
    expect(other.page.locator("#notice")).to_contain_text("does not know threshold of ancestral")
    unknown = Player(open_page(live.url + link("/sample", body | {"sampler": "<b>psychic"}))).begun()
    expect(unknown.page.locator("#notice")).to_contain_text("does not know sampler <b>psychic")


def test_a_preset_fills_in_the_form(live: LiveServer, open_page: Open) -> None:
    player = Player(open_page(live.url)).begun()
    player.field("Model").select_option("absorbing")
    preset, temperature = player.field("Preset"), player.field("temperature")
    assert preset.locator("option").all_inner_texts()[:2] == ["—", "llada"]
    player.fill(seq_len=12, seed=3)
    preset.select_option("fast-dllm")
    filled = {"sampler": "confidence", "ranked_by": "drawn", "threshold": 0.9, "temperature": 0}
    own = {"model": "absorbing", "seq_len": 12, "seed": 3}
    assert sent(player) == own | filled
    expect(preset).to_have_value("fast-dllm")
    temperature.fill("0.5")
    expect(preset).to_have_value("")
    temperature.fill("0")
    expect(preset).to_have_value("fast-dllm")
    preset.select_option("llada")
    asked = sent(player)
    assert "threshold" not in asked, "it is no part of the other one"
    player.run()
    same = live.post("/sample", own | {"preset": "llada", "stream": False}).json()
    names = pieces(live, "absorbing")
    assert player.labels() == [names[token] for token in same["samples"][0]["tokens"]]
    linked = Player(open_page(live.url + link("/sample", own | {"preset": "llada"}))).begun()
    assert sent(linked) == asked


def test_guidance_is_offered_where_there_is_something_to_follow(live: LiveServer, open_page: Open) -> None:
    player = Player(open_page(live.url)).begun()
    player.field("top_p")  # the fold is open
    guidance = player.page.get_by_label("guidance_scale", exact=True)
    expect(guidance).to_be_hidden()
    player.prompt.fill("w3 w4")
    expect(guidance).to_be_visible()
    guidance.fill("2")
    player.prompt.fill("")
    expect(guidance).to_be_visible()  # it would be sent
    guidance.fill("")
    expect(guidance).to_be_hidden()


def test_who_colours_by_confidence_asks_for_it(live: LiveServer, open_page: Open) -> None:
    body = {"model": "absorbing", "seq_len": 12, "num_inference_steps": 6, "seed": 3}
    player = Player(open_page(live.url + link("/sample", body))).begun()
    assert sent(player) == body
    player.run()
    player.page.get_by_label("Confidence").check()
    player.drawn()
    expect(player.page.locator("#legend")).to_contain_text("the next one will be")
    assert sent(player) == body | {"logprobs": True}
    player.run()
    (logprobs,) = live.post("/sample", body | {"logprobs": True, "stream": False}).json()["logprobs"]
    heats = [next(name for name in names if name.startswith("heat-")) for names in player.kinds()]
    assert heats == [f"heat-{min(int(math.sqrt(math.exp(logprob)) * 16), 15)}" for logprob in logprobs]
    assert f"p = {math.exp(logprobs[5]):.2f}" in said(player, 5) or math.exp(logprobs[5]) < 0.01
    again = Player(open_page(player.page.url)).begun()
    expect(again.page.get_by_label("Confidence")).to_be_checked()


def test_two_decoders_are_compared(live: LiveServer, open_page: Open) -> None:
    body = {"model": "absorbing", "seq_len": 8, "num_inference_steps": 8, "seed": 3, "logprobs": True}
    second = body | {"sampler": "confidence", "threshold": 0.9}
    fragment = link("/sample", body) + "&" + "&".join(f"b.{part}" for part in link("/sample", second)[1:].split("&"))
    player = Player(open_page(live.url + fragment)).begun()
    player.run()
    titles = player.page.locator(".lane-title").all_inner_texts()
    assert titles == ["Run A: sampler default", "Run B: sampler confidence, threshold 0.9"]
    for lane in (0, 1):
        assert all(any(name.startswith("heat-") for name in names) for names in player.kinds(lane=lane))
    done = [story[-1][1] for story in player.saved()]
    assert [len(each["logprobs"][0]) for each in done] == [8, 8] and done[1]["sampler"] == "confidence"
