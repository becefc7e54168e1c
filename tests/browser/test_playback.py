"""Going through a run: by slider and keys, playing, looping, faster; two runs in step; as cells and as text."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.player import Player, link, pieces
from tests.browser.saved import archive, opened
from tests.browser.watched import Open
from tests.live_server import LiveServer

pytest_plugins = ["tests.server_fixtures"]
pytestmark = pytest.mark.browser

BODY = {"seq_len": 20, "num_inference_steps": 40, "seed": 4, "model": "absorbing"}


@pytest.fixture
def player(live: LiveServer, open_page: Open) -> Player:
    """With a run that is over, at its end; none of its states is merged with another."""
    step_map = [1 + position * 7 % 12 for position in range(20)]
    changes = [[[0, at, 6 + at % 3] for at in range(20) if step_map[at] == step] for step in range(1, 13)]
    states = [{"step": step, "changes": each} for step, each in enumerate(changes, start=1)]
    return opened(live, open_page, archive(states, step_map))


def masks(player: Player, lane: int = 0) -> int:
    return sum("mask" in kind for kind in player.kinds(lane=lane))


def test_keys_go_through_the_states(player: Player) -> None:
    last = player.last_tick
    assert (player.tick, masks(player)) == (last, 0)
    player.press("Home")
    assert (player.tick, masks(player)) == (0, 20)
    player.press("ArrowRight", "ArrowRight", "ArrowRight")
    assert player.tick == 3
    assert 0 < masks(player) < 20
    shown = player.labels()
    player.press("ArrowRight", "ArrowLeft")
    assert (player.tick, player.labels()) == (3, shown)
    player.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft")
    assert player.tick == 0
    player.press("End", "ArrowRight")
    assert (player.tick, masks(player)) == (last, 0)


def test_the_slider_does_too(player: Player) -> None:
    last = player.last_tick
    shown = {}
    for tick in (0, last, last // 2, 1):  # there and back, so that seeking back is tried as well
        player.position.fill(str(tick))
        player.drawn()
        shown[tick] = player.labels()
    player.position.focus()
    player.page.keyboard.press("ArrowRight")
    player.drawn()
    expect(player.position).to_have_attribute("aria-valuetext", f"state 2 of {last}")
    for tick, labels in shown.items():
        player.press("Home", *["ArrowRight"] * tick)
        assert player.labels() == labels


def test_it_plays_to_its_end_pauses_and_begins_anew(player: Player) -> None:
    page = player.page
    page.get_by_label("Speed").select_option("16")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => document.querySelector('#play').getAttribute('aria-label') === 'Play'")
    assert player.tick == player.last_tick
    page.get_by_label("Speed").select_option("0.25")
    player.press(" ")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.wait_for_function("() => document.querySelector('#position').value > 0")
    player.press(" ")
    tick = player.tick
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.wait_for_timeout(150)
    assert player.tick == tick < player.last_tick


def test_a_loop_begins_anew(player: Player) -> None:
    page = player.page
    page.get_by_label("Loop").check()
    page.get_by_label("Speed").select_option("16")
    page.evaluate("""() => {
      globalThis.seen = [];
      const look = () => {
        const value = Number(document.querySelector("#position").value);
        if (globalThis.seen.at(-1) !== value) globalThis.seen.push(value);
        requestAnimationFrame(look);
      };
      look();
    }""")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(
        "() => globalThis.seen.filter((value, index, all) => index > 0 && value < all[index - 1]).length >= 2"
    )


def test_text_and_colours_are_looks_of_the_same_run(player: Player) -> None:
    page = player.page
    labels = player.labels()
    page.get_by_label("Text", exact=True).check()
    player.drawn()
    assert player.grid().inner_text().split() == " ".join(labels).split()
    expect(page.locator(".samples")).to_have_attribute("data-view", "text")
    page.get_by_label("Cells").check()
    player.press("Home", *["ArrowRight"] * 6)
    colours = player.grid().evaluate(
        "(grid) => [...grid.children].map((cell) => getComputedStyle(cell).backgroundColor)"
    )
    fresh = [colour for colour, kind in zip(colours, player.kinds(), strict=True) if "age-0" in kind]
    blank = [colour for colour, kind in zip(colours, player.kinds(), strict=True) if "mask" in kind]
    assert fresh and blank and not {*fresh} & {*blank}


def test_two_runs_go_in_step(live: LiveServer, open_page: Open) -> None:
    player = Player(open_page(live.url)).begun()
    player.fill(seq_len=16, num_inference_steps=8, seed=3, model="absorbing")
    player.page.get_by_label("Compare two runs").check()
    expect(player.page.get_by_label("Run B")).to_be_checked()
    player.field("num_inference_steps").fill("64")
    player.run()
    lanes = player.page.locator(".lane")
    assert lanes.count() == 2
    names, shares = pieces(live, "absorbing"), []
    for lane, steps in enumerate((8, 64)):
        assert f"num_inference_steps {steps}" in lanes.nth(lane).inner_text()
        body = {"seq_len": 16, "num_inference_steps": steps, "seed": 3, "stream": False}
        done = live.post("/sample", body).json()
        assert player.labels(lane=lane) == [names[token] for token in done["samples"][0]["tokens"]]
    for steps, events in zip((8, 64), player.saved(), strict=True):
        shares.append([0.0, *(data["step"] / steps for name, data in events if name == "state")])
    ticks = sorted({*shares[0], *shares[1]})
    assert player.last_tick == len(ticks) - 1
    for tick in range(0, len(ticks), 3):
        player.position.fill(str(tick))
        player.drawn()
        for lane, steps in enumerate((8, 64)):
            step = max(share for share in shares[lane] if share <= ticks[tick]) * steps
            expect(lanes.nth(lane).locator(".facts")).to_contain_text(f"step {step:.0f} of {steps} ")


def test_a_link_to_two_runs_reproduces_both(live: LiveServer, open_page: Open) -> None:
    bodies = [BODY, BODY | {"temperature": 0.5, "model": "uniform"}]
    second = "&".join(f"b.{part}" for part in link("/sample", bodies[1])[1:].split("&"))
    player = Player(open_page(f"{live.url}{link('/sample', bodies[0])}&{second}")).begun()
    expect(player.page.get_by_label("Compare two runs")).to_be_checked()
    player.run()
    for lane, body in enumerate(bodies):
        names = pieces(live, str(body["model"]))
        (sample,) = live.post("/sample", body | {"stream": False}).json()["samples"]
        assert player.labels(lane=lane) == [names[token] for token in sample["tokens"]]


def test_who_wants_less_motion_gets_none_that_is_not_asked_for(live: LiveServer, open_page: Open) -> None:
    page = open_page(live.url + link("/sample", BODY), reduced_motion="reduce")
    player = Player(page).begun()
    player.run()
    moving = page.evaluate("""() => [...document.querySelectorAll("*")].filter((each) => {
      const { transitionDuration, animationDuration, animationName } = getComputedStyle(each);
      const seconds = transitionDuration.split(",").map(parseFloat);
      return Math.max(...seconds) > 0.01 || (animationName !== "none" && parseFloat(animationDuration) > 0.01);
    }).map((each) => each.outerHTML.slice(0, 100))""")
    assert moving == []
    assert page.evaluate("() => document.getAnimations().length") == 0
