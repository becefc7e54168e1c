"""From the form to the last token: what is asked is what was typed, and what is shown is what the server said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Route, expect

from tests.browser.player import STATE, Player, link, pieces
from tests.browser.watched import Open
from tests.live_server import LiveServer, faked, serving, wait_until
from tests.tiny import save_smiles
from token_diffusion.checkpoint import Checkpoint, load_checkpoint

pytest_plugins = ["tests.server_fixtures"]
pytestmark = pytest.mark.browser

MASK = 4


def answer(server: LiveServer, endpoint: str, **body: Any) -> dict[str, Any]:
    """`done` of the same request, asked for without the page."""
    response = server.post(endpoint, body | {"stream": False})
    assert response.status_code == 200, response.text
    done: dict[str, Any] = response.json()
    return done


@pytest.mark.parametrize("endpoint", ["/sample", "/sample/block", "/sample/hybrid"])
def test_a_run_of_each_endpoint(live: LiveServer, open_page: Open, endpoint: str) -> None:
    body: dict[str, Any] = {"prompt": "w3 w4", "seq_len": 20, "num_inference_steps": 16, "seed": 5, "num_samples": 2}
    if endpoint == "/sample/block":
        body["block_size"] = 8
    player = Player(open_page(live.url)).begun()
    player.fill(endpoint, **body)
    player.run()
    done = answer(live, endpoint, **body)
    names = pieces(live, done["model"])
    for sample, expected in enumerate(done["samples"]):
        assert player.labels(sample) == [names[token] for token in expected["tokens"]]
        assert player.kinds(sample)[0] >= {"fixed"} and player.kinds(sample)[5] >= {"set"}
        assert all(name in player.spoken(sample) for name in player.labels(sample))


def test_a_run_that_begins_is_running_at_once(live: LiveServer, open_page: Open) -> None:
    """Not from the next frame on: who waits for its end must not be told of the one before."""
    player = Player(open_page(live.url)).begun()
    player.fill(seq_len=12, num_inference_steps=4)
    player.run()
    assert player.page.evaluate(STATE) == "done"
    click = "() => { document.getElementById('run').click(); return document.documentElement.dataset.state; }"
    assert player.page.evaluate(click) == "running"
    player.wait("done")


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
def test_a_saved_run_is_the_story_that_the_server_told(live: LiveServer, open_page: Open, process: str) -> None:
    """And the page shows each of its states as replaying the events does."""
    endpoint = "/sample/hybrid" if process == "hybrid" else "/sample"
    body = {"model": process, "seq_len": 12, "num_inference_steps": 12, "seed": 3}
    player = Player(open_page(live.url + link(endpoint, body))).begun()
    player.run()
    ((start, *middle, end),) = player.saved()
    tokens = start[1]["tokens"][0]
    states = [list(tokens)]
    for name, data in middle:
        for _, position, token in data["changes"] if name == "state" else ():
            tokens[position] = token
        states.append(list(tokens))
    done = answer(live, endpoint, **body)
    assert states[-1] == done["samples"][0]["tokens"] == end[1]["samples"][0]["tokens"]
    names = pieces(live, process)
    names[MASK] = ""
    assert player.last_tick == len(states) - 1
    player.press("Home")
    for state in states:
        assert player.labels() == [names[token] for token in state]
        player.press("ArrowRight")


def test_the_step_map_is_the_server_s(live: LiveServer, open_page: Open) -> None:
    body = {"seq_len": 16, "num_inference_steps": 32, "seed": 2, "model": "absorbing"}
    player = Player(open_page(live.url + link("/sample", body))).begun()
    player.run()
    (steps,) = answer(live, "/sample", **body)["step_map"]
    player.page.get_by_label("Step map").check()
    player.drawn()
    heats = [int(next(name for name in names if name.startswith("heat-"))[5:]) for names in player.kinds()]
    assert len(set(heats)) > 4
    for position, step in enumerate(steps):
        player.grid().locator("span").nth(position).hover()
        expect(player.page.locator(".inspector")).to_contain_text(f"set at step {step}")
        assert heats[position] == min(step * 16 // 32, 15)
    player.press("Home")
    expect(player.page.locator(".inspector")).to_contain_text("[MASK]")  # the same cell, as it is now


def test_holes_are_filled_and_nothing_else(live: LiveServer, open_page: Open) -> None:
    player = Player(open_page(live.url)).begun()
    player.fill("/sample", "w1 ____ w2 [MASK] w3", seed=7, num_inference_steps=8)
    player.run()
    done = answer(live, "/sample", template="w1 [MASK][MASK] w2 [MASK] w3", seed=7, num_inference_steps=8)
    names = pieces(live, done["model"])
    assert player.labels() == [names[token] for token in done["samples"][0]["tokens"]]
    fixed = [position for position, kind in enumerate(player.kinds()) if "fixed" in kind]
    assert fixed == [0, 3, 5]
    player.page.get_by_label("fill the holes").uncheck()
    assert json.loads(shown_json(player)) == {"prompt": "w1 ____ w2 [MASK] w3", "seed": 7, "num_inference_steps": 8}


def shown_json(player: Player) -> str:
    """The request as the page shows it in JSON."""
    player.page.get_by_role("button", name="Code").click()
    player.page.get_by_label("JSON").check()
    return player.page.get_by_label("Code", exact=True).input_value()


def test_the_cursor_s_place_gets_a_hole(live: LiveServer, open_page: Open) -> None:
    player = Player(open_page(live.url)).begun()
    player.prompt.fill("w1  w2")
    player.prompt.evaluate("(box) => box.setSelectionRange(3, 3)")
    player.page.get_by_role("button", name="Insert hole").click()
    assert player.prompt.input_value() == "w1 ____ w2"


def test_a_field_that_comes_later_appears_and_what_is_wrong_with_it_is_said_beside_it(
    live: LiveServer, open_page: Open
) -> None:
    """As would another endpoint. This server knows neither, and refuses the field by name."""

    def later(route: Route) -> None:
        document = route.fetch().json()
        fields = document["components"]["schemas"]["SampleRequest"]["properties"]
        fields["shine"] = {
            "type": "integer",
            "default": 3,
            "minimum": 1,
            "maximum": 9,
            "description": "how it <b>shines</b>",
        }
        fields["glaze"] = {"type": "string", "enum": ["matt", "gloss"], "default": "matt"}
        document["paths"]["/sample/later"] = document["paths"]["/sample"]
        route.fulfill(json=document)

    player = Player(open_page(live.url, lambda page: page.route("**/openapi.json", later))).begun()
    assert "sample/later" in player.field("Endpoint").locator("option").all_inner_texts()
    shine = player.field("shine")
    expect(shine).to_have_attribute("placeholder", "3")
    expect(shine).to_have_accessible_description("how it <b>shines</b>; from 1 to 9")
    assert player.field("glaze").locator("option").all_inner_texts() == ["matt", "gloss"]
    shine.fill("5")
    player.start()
    player.wait("error")
    expect(shine).to_have_attribute("aria-invalid", "true")
    expect(shine).to_be_focused()
    expect(shine).to_have_accessible_description(
        "how it <b>shines</b>; from 1 to 9 " + live.post("/sample", {"shine": 5}).json()["error"]["message"]
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", "-1"), ("seq_len", "100000"), ("seed", "-3"), ("top_p", "1.5"), ("seed", "1.5")],
)
def test_what_is_out_of_range_is_said_beside_its_field(
    live: LiveServer, open_page: Open, field: str, value: str
) -> None:
    player = Player(open_page(live.url)).begun()
    player.field(field).fill(value)
    player.run_button.click()
    expect(player.field(field)).to_have_attribute("aria-invalid", "true")
    problem = player.page.locator(f"#{player.field(field).get_attribute('id')}-problem")
    expect(problem).to_contain_text(field)
    player.field(field).fill("")
    expect(problem).to_be_hidden()
    player.fill(seq_len=8, num_inference_steps=4)
    player.run()


def test_a_link_reproduces_its_run(live: LiveServer, open_page: Open) -> None:
    player = Player(open_page(live.url)).begun()
    player.fill(
        "/sample/block", "w5 é\n\u05d0 &=#+% <b>", seq_len=24, num_inference_steps=8, block_size=8, model="uniform"
    )
    player.run()
    labels, address = player.labels(), player.page.url
    assert "seed=" in address
    again = Player(open_page(address)).begun()
    assert again.prompt.input_value() == "w5 é\n\u05d0 &=#+% <b>"
    again.run()
    assert again.labels() == labels


@pytest.mark.parametrize(
    ("fragment", "word"),
    [
        ("#endpoint=/nowhere&seq_len=8", "/nowhere"),
        ("#endpoint=/sample&seq_len=eight", "seq_len"),
        ("#endpoint=/sample&unheard=1&seq_len=8", "unheard"),
        ("#endpoint=/sample&model=<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
    ],
)
def test_a_link_that_cannot_be_read_says_what_of_it(
    live: LiveServer, open_page: Open, fragment: str, word: str
) -> None:
    player = Player(open_page(live.url + "/" + fragment)).begun()
    expect(player.page.locator("#notice")).to_contain_text(word)
    player.fill(seq_len=8, num_inference_steps=4)
    player.run()


def test_stop_ends_the_request_at_the_server(tiny: Mapping[str, Checkpoint], open_page: Open) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.02)
    with serving({"absorbing": checkpoint}) as server:
        player = Player(open_page(server.url)).begun()
        player.fill(seq_len=64, num_inference_steps=1000)
        player.start()
        wait_until(lambda: server.engine.jobs.rows == 1)
        player.page.get_by_role("button", name="Stop").click()
        wait_until(lambda: server.engine.jobs.rows == 0)
        expect(player.run_button).to_have_text("Run")
        player.start()
        wait_until(lambda: server.engine.jobs.rows == 1)
        player.page.goto(f"{server.url}/docs")  # whoever leaves the page stops it, too
        wait_until(lambda: server.engine.jobs.rows == 0)


def test_what_stands_behind_the_end_of_a_text_is_told_apart(live: LiveServer, open_page: Open) -> None:
    body = {
        "prompt": "w3 w4",
        "model": "absorbing",
        "seq_len": 16,
        "num_inference_steps": 16,
        "seed": 5,
        "num_samples": 2,
    }
    names = pieces(live, "absorbing")
    whole = answer(live, "/sample", **body)["samples"][0]["tokens"]
    stop = names[whole[6]]
    samples = answer(live, "/sample", stop=stop, **body)["samples"]
    assert samples[0]["finish_reason"] == "stop"
    player = Player(open_page(live.url + link("/sample", body | {"stop": stop}))).begun()
    player.run()
    for sample, expected in enumerate(samples):
        text = "".join(expected["text"].split())
        reached = next(
            n for n in range(17) if len("".join(names[token] for token in expected["tokens"][:n])) >= len(text)
        )
        assert ["after" in kinds for kinds in player.kinds(sample)] == [position >= reached for position in range(16)]
    player.press("ArrowLeft")
    assert not any("after" in kinds for kinds in player.kinds()), "while it runs nobody knows"


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_first_visitor_is_shown_an_example_once(live: LiveServer, open_page: Open, motion: str) -> None:
    """Quietly: no announcement, no new address; and not who wants little motion."""
    page = open_page(live.url, first=True, reduced_motion=motion)
    player = Player(page).begun()
    lesson = page.locator("#lesson")
    if motion == "no-preference":
        player.wait("done")
        expect(lesson).not_to_be_empty()
        expect(page.get_by_role("group", name="Examples").locator("[aria-current]")).to_have_count(1)
        assert (urlsplit(page.url).fragment, page.locator("#announcer").inner_text()) == ("", "")
        player.fill(seq_len=12)
        player.run()
        expect(lesson).to_be_hidden()
        page.goto(live.url)
        page.reload()
        player.begun()
    page.wait_for_timeout(200)
    assert page.evaluate(STATE) == "idle"


@pytest.fixture
def molecules(tmp_path: Path) -> Iterator[LiveServer]:
    """Of SMILES, and of 32 positions alone."""
    folder = save_smiles(tmp_path / "molecules", ["CC(=O)C#N", "C1CC1"], max_position_embeddings=32)
    with serving({"molecules": load_checkpoint(folder)}) as server:
        yield server


@pytest.mark.parametrize(
    ("name", "spelt"), [("live", []), ("molecules", ["Go on with a beginning", "Fill in the gaps"])]
)
def test_an_example_runs_with_one_press(
    request: pytest.FixtureRequest, open_page: Open, name: str, spelt: list[str]
) -> None:
    server: LiveServer = request.getfixturevalue(name)
    player = Player(open_page(server.url)).begun()
    examples = player.page.get_by_role("group", name="Examples").get_by_role("button")
    assert examples.count() >= 4
    begun = {"Go on with a beginning", "Fill in the gaps"} & {*examples.all_inner_texts()}
    assert begun == {*spelt}, "a model that cannot spell the text is offered none"
    for example in examples.all():
        example.click()
        player.wait("done", "error")
        player.end()
        expect(player.page.locator("html")).to_have_attribute("data-state", "done")
