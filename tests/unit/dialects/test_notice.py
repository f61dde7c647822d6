"""A notice in a prompt's system text: in each API's field, behind what the caller wrote."""

from typing import Any

import pytest

from llm_proxy.dialects import Call
from llm_proxy.dialects.notice import with_notice
from llm_proxy.endpoints import Endpoint

ASKED = {"role": "user", "content": "hi"}
SAID = "Notice: so. Do not repeat it: try another way, or stop and say what is in the way."
PART = {"type": "text", "text": SAID}


@pytest.mark.parametrize(
    ("endpoint", "body", "told"),
    [
        (
            "chat.completions",
            {"messages": [ASKED]},
            {"messages": [{"role": "system", "content": SAID}, ASKED]},
        ),
        (
            "chat.completions",
            {"messages": [{"role": "developer", "content": "Be brief."}, ASKED]},
            {"messages": [{"role": "developer", "content": f"Be brief.\n\n{SAID}"}, ASKED]},
        ),
        (
            "chat.completions",
            {"messages": [{"role": "system", "content": [{"type": "text", "text": "Be."}]}, ASKED]},
            {"messages": [{"role": "system", "content": [{"type": "text", "text": "Be."}, PART]}, ASKED]},
        ),
        ("responses", {"input": "hi"}, {"instructions": SAID}),
        ("responses", {"instructions": "Be."}, {"instructions": f"Be.\n\n{SAID}"}),
        ("messages", {"messages": [ASKED]}, {"system": SAID}),
        ("messages", {"system": "Be."}, {"system": f"Be.\n\n{SAID}"}),
        ("messages", {"system": [PART]}, {"system": [PART, PART]}),
        ("generate_content", {}, {"systemInstruction": {"parts": [{"text": SAID}]}}),
        (
            "generate_content",
            {"systemInstruction": {"role": "system", "parts": [{"text": "Be."}]}},
            {"systemInstruction": {"role": "system", "parts": [{"text": "Be."}, {"text": SAID}]}},
        ),
        ("completions", {"prompt": "hi"}, {}),
    ],
)
def test_the_notice_stands_in_the_system_text(
    endpoint: Endpoint, body: dict[str, Any], told: dict[str, Any]
) -> None:
    """The caller's body is not changed, and nothing else in the call."""
    before = repr(body)
    call = Call(endpoint, "x", "m", "m", body)
    assert with_notice(call, "so").body == body | told
    assert repr(body) == before
