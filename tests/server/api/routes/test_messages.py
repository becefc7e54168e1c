"""Conversations in place of prompts at the endpoints that sample: one rule with /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.live_server import LiveServer, serving
from tests.openai_clients import fond, post
from tests.tiny import chat_tokenizer
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.text import chat_ids
from token_diffusion_client import Client, StateEvent

pytest_plugins = ["tests.server_fixtures"]

TALK: list[Any] = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "the <|end|> cat"}]


@pytest.fixture(scope="module")
def shop(tiny: Mapping[str, Checkpoint], chatty: Checkpoint) -> Iterator[LiveServer]:
    ended = fond(chatty, chatty.tokenizer.eos_token_id)
    object.__setattr__(ended, "name", "ended")
    with serving({**tiny, "chat": chatty, "ended": ended}) as server:
        yield server


def ask(server: LiveServer, path: str = "/sample", **fields: Any) -> Any:
    answer = server.post(path, {"messages": TALK, "seq_len": 90, "stream": False} | fields)
    return answer.json() if answer.status_code == 200 else answer.json()["error"]


def test_the_template_writes_the_prompt_and_the_text_is_what_is_said_next(
    shop: LiveServer, chatty: Checkpoint
) -> None:
    ids = chat_ids(chatty.tokenizer, TALK, None)
    done = ask(shop, seed=3, num_samples=2)
    same = ask(shop, seed=3, num_samples=2, messages=None, prompt_ids=ids, model="chat")
    assert done["model"] == "chat", "the first that can chat"
    assert [each["tokens"] for each in done["samples"]] == [each["tokens"] for each in same["samples"]]
    assert done["usage"] == same["usage"] and done["usage"]["prompt_tokens"] == len(ids)
    shown = "developer\nbe brief\nuser\nthe <|end|> cat\nassistant\n".replace("developer", "system")
    assert [shown + each["text"] for each in done["samples"]] == [each["text"] for each in same["samples"]]


def test_a_chat_at_v1_says_the_same(shop: LiveServer, chatty: Checkpoint) -> None:
    given = len(chat_ids(chatty.tokenizer, TALK, None)) + len(chatty.facts.frame)
    fields = {"seed": 3, "num_inference_steps": 16, "block_size": 16}
    ours = ask(shop, "/sample/block", seq_len=given + 12, **fields)
    chat = shop.post("/v1/chat/completions", {"messages": TALK, "max_tokens": 12, **fields}).json()
    assert ours["samples"][0]["text"] == chat["choices"][0]["message"]["content"]


def test_states_tell_what_is_said_next_too(shop: LiveServer) -> None:
    with Client(shop.url) as client:
        events = list(
            client.stream_sample(messages=TALK, seq_len=90, include_text=True, seed=3, num_inference_steps=4)
        )
    assert ask(shop, seed=3, num_inference_steps=4)["samples"][0]["text"] == events[-1].samples[0].text  # type: ignore[union-attr]
    texts = [event.text[0] for event in events if isinstance(event, StateEvent) and event.text]
    assert texts and not any("brief" in text for text in texts) and "[MASK]" in texts[0]
    assert texts[-1] == events[-1].samples[0].text  # type: ignore[union-attr]


def test_an_end_token_ends_it_and_those_of_the_conversation_do_not(shop: LiveServer) -> None:
    done = ask(shop, model="ended")
    assert [(each["text"], each["finish_reason"]) for each in done["samples"]] == [("", "stop")]
    assert len(done["samples"][0]["tokens"]) == 90


@pytest.mark.parametrize("path", ["/sample", "/sample/block"])
@pytest.mark.parametrize(
    ("fields", "name", "why"),
    [
        ({"model": "absorbing"}, "messages", "be sent to a model with a chat template, got ['developer', 'user']"),
        ({"prompt": "a"}, "messages", "be absent where prompt is given"),
        ({"template_ids": [4]}, "messages", "be absent where template_ids is given"),
        ({"messages": []}, "messages", "at least one message"),
        ({"seq_len": 20}, "messages", "fit into seq_len = 20 tokens, 2 of which are the frame's"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'assistant'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "must be given"),
        ({"messages": ["hi"]}, "messages.0", "must be an object, got 'hi'"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content", "surrogate"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "messages.0.tool_calls", "not a field"),
        ({"messages": [{"role": "user", "content": "ab " * 20_000}]}, "messages", "fit into seq_len = 90 tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    shop: LiveServer, path: str, fields: dict[str, Any], name: str, why: str
) -> None:
    answer = post(shop, path, {"messages": TALK, "seq_len": 90, "stream": False} | fields)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["param"] == name and why in answer.json()["error"]["message"]


def test_a_template_that_is_broken_or_does_not_end_is_one_error(chatty: Checkpoint) -> None:
    tokenizer = chat_tokenizer()
    object.__setattr__(broken := fond(chatty, 5), "tokenizer", tokenizer)
    with serving({"chat": broken}) as server:
        for template, why in [
            ("{% for message in", "TemplateSyntaxError"),
            ("{{ raise_exception('roles must\nalternate') }}", "takes (roles must alternate), got"),
            ("{{ ('a' * 3000000000) | length }}", "MemoryError"),
        ]:
            tokenizer.chat_template = template
            answer = server.post("/sample", {"messages": TALK})
            assert answer.status_code == 422 and why in answer.json()["error"]["message"]
            assert answer.json()["error"]["param"] == "messages"
        tokenizer.chat_template = "{{ messages[-1].content }}"
        assert server.post("/sample", {"messages": TALK, "stream": False}).status_code == 200
