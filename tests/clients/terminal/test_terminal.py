"""What reaches a terminal, whichever it is and whatever a server says."""

from __future__ import annotations

import re
import sys
from urllib.parse import quote

import pytest

from tests.clients.scripted_server import DONE, START, Reply, answer, json_sse, scripted, sse
from tests.clients.terminals import OldTerminal, Terminal
from tests.clients.test_endpoints import SCORES
from token_diffusion_client.__main__ import main
from token_diffusion_client.terminal import INSTALL

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(("term", "kind"), [("dumb", Terminal), ("xterm", OldTerminal)])
def test_a_terminal_that_cannot_be_drawn_on_gets_the_texts(
    term: str, kind: type[Terminal], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdout", out := kind())
    with scripted(sample=Reply([sse()])) as server:
        assert main(["sample", "--url", server.url]) == 0
    assert (out.getvalue(), capsys.readouterr().err) == ("the dög sat\nüber\n", "")


EVIL = "\x1b]0;mine\x07\x9b2J\u202e"


@pytest.mark.parametrize("has_rich", [True, False])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["sample"], 0),
        (["sample", "--quiet"], 0),
        (["sample", "--json"], 0),
        (["sample-block"], 1),
        (["sample-hybrid"], 1),
        (["watch", "--count", "1"], 0),
        (["watch", "--count", "1", "--json"], 0),
        (["score", "a", "c"], 0),
        (["score", "a", "c", "--json"], 0),
        (["bench", "--num_prompts", "1", "--endpoint", "sample/block"], 1),
    ],
)
def test_no_terminal_obeys_a_server(
    command: list[str], code: int, has_rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    if not has_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    done = {**DONE, "model": EVIL, "finish_reason": EVIL, "samples": [{"text": EVIL, "tokens": [1, 2, 3, 4]}] * 2}
    refused = answer({"error": {"message": f"{EVIL}\nmore", "type": EVIL, "code": 500}}, 500)
    replies = {
        "sample": Reply([json_sse("start", {**START, "model": EVIL}), json_sse("done", done)]),
        "sample_block": refused,
        "sample_hybrid": Reply([json_sse("error", {"error": {"message": EVIL, "type": EVIL}})]),
        "info": answer({"version": EVIL, "load": {EVIL: EVIL}, "models": [{"name": EVIL}]}),
        "models": answer({"models": [{"name": EVIL}]}),
        "score": answer({**SCORES, "model": EVIL, "estimator": EVIL}),
    }
    with scripted(**replies) as server:
        vocabulary = {
            "model": EVIL,
            "vocab_size": 20,
            "mask_token_id": 0,
            "special_token_ids": [],
            "pieces": [EVIL] * 20,
        }
        server.replies[f"/models/{quote(EVIL, safe='')}/tokens"] = answer(vocabulary)
        assert main([*command, "--url", server.url], prog="td") == code
    error = capsys.readouterr().err.removeprefix(f"to see it drawn: {INSTALL}\n")
    assert not re.search(r"\x1b\]|[\x07\x9b\u202e]", out.getvalue() + error)
    assert ("<U+009B>2J<U+202E>" in error, error.count("\n")) == ((True, 1) if code else (False, 0))
