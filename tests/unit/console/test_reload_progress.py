"""How a reload goes, as a fragment that asks for itself again until it has ended."""

import pytest

from llm_proxy.console.rendering import Templates

STARTED = {"began_ns": 20, "done": None, "lines": ["<starting>"]}


@pytest.mark.parametrize(
    ("last", "since", "shown", "asks_again"),
    [
        (None, 0, "", False),
        (None, 10, "requested", True),
        (STARTED, 10, "in progress", True),
        (STARTED | {"began_ns": 5}, 10, "requested", True),  # of a reload before
        (STARTED | {"done": True}, 10, "the new configuration serves", False),
        (STARTED | {"done": False}, 10, "rejected; the old configuration stays", False),
        (STARTED | {"done": True}, 0, "the new configuration serves", False),
    ],
)
def test_the_fragment_asks_again_until_the_reload_has_ended(
    last: object,
    since: int,
    shown: str,
    asks_again: bool,  # noqa: FBT001 -- pytest passes it by name
) -> None:
    text = Templates({}).render("reload_progress.html", {"reload": {"last": last}, "since": since})
    assert shown in text
    assert ("hx-get=" in text) == asks_again
    assert "<starting>" not in text
