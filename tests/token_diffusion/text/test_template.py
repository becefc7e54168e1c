"""Templates as transformers renders them; those that are hostile or broken cost little time and memory, and one error."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from token_diffusion.text.template import Renderer, TemplateError

TALK = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    renderer = Renderer(seconds=0.2)
    yield renderer
    renderer.close()


def test_what_a_template_sees(renderer: Renderer) -> None:
    template = (
        "{{ bos_token }}{{ messages | tojson }}{{ tools is none }}{{ add_generation_prompt }}{{ strftime_now('x') }}"
    )
    written = '<s>[{"role": "user", "content": "é\\u2028"}]TrueTruex'
    assert renderer.render(template, [{"role": "user", "content": "é\u2028"}], {"bos_token": "<s>"}) == (
        written.replace("\\u2028", "\u2028")
    )


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('no\nsystem') }}", "^no\nsystem$"),
        ("{% for", "TemplateSyntaxError: "),
        ("{{ messages[0].x.y }}", "UndefinedError: "),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError: access to attribute '__class__'"),
        ("{% include 'x' %}", "TypeError: no loader"),
        ("{% for i in range(10**6) %}{% endfor %}", "OverflowError: Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'a' * 5000000 }}", "MemoryError: it writes more than 4194304 characters"),
        ("{{ ('a' * 3000000000) | length }}", "MemoryError"),
        ("{{ '%3000000000d' % 1 }}", "MemoryError"),
        (
            "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "MemoryError|seconds",
        ),
    ],
)
def test_what_it_does_not_render_it_says(renderer: Renderer, template: str, why: str) -> None:
    with pytest.raises(TemplateError, match=why):
        renderer.render(template, TALK, {})


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ (9 ** (9 ** 9)) is odd }}",
    ],
    ids=["loops", "powers"],
)
def test_one_without_end_is_ended(renderer: Renderer, template: str) -> None:
    began = time.perf_counter()
    with pytest.raises(TemplateError, match=r"it takes more than 0\.2 seconds"):
        renderer.render(template, TALK, {})
    assert time.perf_counter() - began < 60
    assert renderer.render("{{ messages[0].content }}", TALK, {}) == "hi", "the next one has a process of its own"


def test_a_process_that_somebody_ends_is_started_anew(renderer: Renderer) -> None:
    renderer.render("a", TALK, {})
    (child,) = renderer._children.values()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with pytest.raises(TemplateError, match="the process that renders it ended with -9"):
        renderer.render("a", TALK, {})
    assert renderer.render("a", TALK, {}) == "a"
