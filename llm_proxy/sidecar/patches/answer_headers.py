"""Names in LiteLLM's response headers: any letters, sent as UTF-8.

Invariant: no name of the configuration makes an answered call fail; characters that no header may hold are
sent as `?`.
"""

from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace


def sendable(value: str) -> str:
    """Return the text whose Latin-1 bytes, which LiteLLM sends, are the value's UTF-8."""
    if value.isascii() and value.isprintable():
        return value
    shown = "".join(one if one.isprintable() else "?" for one in value)
    return shown.encode().decode("latin-1")


def install() -> None:
    """Patch the function that makes the headers of every response; before the first call."""
    processing = litellm_internals.request_processing_class()

    def make_sendable(**options: Untyped) -> dict[str, str]:
        made: dict[str, str] = make(**options)
        return {name: sendable(value) for name, value in made.items() if name.isascii()}

    make = replace(processing, "get_custom_headers", make_sendable)


PATCH = LiteLLMPatch(
    name="answer_headers",
    install=install,
    reason=(
        "LiteLLM sends the names of group, deployment, model and guardrail in headers as Latin-1: after the "
        "provider has answered, each call of a name with other letters fails with 500, and costs its price."
    ),
    until="LiteLLM encodes what it sends in headers.",
    tests=("tests/stages/sidecar/test_direct_calls.py::test_names_of_any_letters_are_answered",),
)
