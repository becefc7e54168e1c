from __future__ import annotations

import pytest

from tests.browser.watched import Open, Watched
from tests.live_server import LiveServer

pytest_plugins = ["tests.server_fixtures"]
pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("attack", "directive"),
    [
        (
            "const s = document.createElement('script'); s.textContent = 'alert(1)'; document.body.append(s)",
            "script-src",
        ),
        ("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=alert(1)>')", "script-src"),
        ("document.body.insertAdjacentHTML('beforeend', '<p style=color:red>')", "style-src"),
        ("new Image().src = 'http://127.0.0.1:9/x.png'", "img-src"),
        ("fetch('http://127.0.0.1:9/').catch(() => {})", "connect-src"),
        ("const f = document.createElement('iframe'); f.src = '/docs'; document.body.append(f)", "frame-src"),
    ],
)
def test_the_browser_forbids_what_the_policy_does(
    live: LiveServer, open_page: Open, watched: Watched, attack: str, directive: str
) -> None:
    """So that the other tests would see it: whatever forgot to escape a sample is found, though nothing of it runs."""
    page = open_page(live.url)
    page.evaluate(f"() => {{ {attack} }}")
    watched.expect(page, directive)
