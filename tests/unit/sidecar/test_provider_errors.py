"""What is read from LiteLLM's exceptions."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from httpx import ConnectError

from llm_proxy.sidecar.provider_errors import headers_of_error, retry_after_s


@dataclass
class Reply:
    """A provider's response, as HTTP clients hold it."""

    status_code: int
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    text: str = ""


class Failed(Exception):  # noqa: N818 -- a shape, not a state
    """An exception with a response."""

    def __init__(self, response: Reply | None = None, message: str = "", body: object = None) -> None:
        super().__init__(message)
        self.response, self.message, self.body = response, message, body


def found(error: BaseException | None) -> dict[str, str]:
    """Return the headers as text."""
    return {name.decode(): value.decode() for name, value in headers_of_error(error)}


def test_the_message_is_read_wherever_it_is() -> None:
    """In the body an SDK parsed, in the response's text, in the message of an exception that quotes it."""
    body = {"message": "m", "type": "t", "code": "c", "param": "p"}
    text = '{"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}'
    expected = {
        "x-llmp-provider-status": "400",
        "x-llmp-provider-code": "c",
        "x-llmp-provider-type": "t",
        "x-llmp-provider-param": "p",
        "x-llmp-message": "m",
    }
    assert found(Failed(Reply(400), body=body)) == expected
    assert found(Failed(Reply(400, text=text))) == expected
    assert found(Failed(Reply(400), message=f"XException - {text} and more")) == expected


def test_the_provider_s_response_is_found_in_the_causes() -> None:
    """By cause, by context, and as `original_exception`; a loop ends."""
    inner = Failed(Reply(429, {"retry-after": "3"}))
    outer = RuntimeError("worded anew")
    outer.__cause__ = inner
    inner.__context__ = outer
    assert found(outer)["x-llmp-provider-status"] == "429"
    held = RuntimeError("holds it")
    held.original_exception = inner  # type: ignore[attr-defined]
    assert found(held)["x-llmp-retry-after"] == "3"


@pytest.mark.parametrize(
    "error",
    [None, ValueError("x"), Failed(None), Failed(Reply(400, {})), Failed(Reply(200))],
    ids=["none", "own", "no answer", "made-up answer", "good answer"],
)
def test_without_a_provider_s_response_there_is_no_provider_header(error: BaseException | None) -> None:
    """LiteLLM's invented responses have no headers. The exception's class is sent, none of its text."""
    headers = {} if error is None else {"x-llmp-origin": "answer", "x-llmp-message": type(error).__name__}
    assert found(error) == headers


def test_values_are_short_printable_ascii() -> None:
    """A provider's message cannot break a header."""
    body = {"code": "a\r\nset-cookie: x\u20ac" + "y" * 300}
    value = found(Failed(Reply(400), body=body))["x-llmp-provider-code"]
    assert value.isascii()
    assert value.isprintable()
    assert len(value) <= 200


def test_google_s_code_is_its_status_field() -> None:
    """Its `code` is the HTTP status."""
    body = {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}
    assert found(Failed(Reply(429), body=body))["x-llmp-provider-code"] == "RESOURCE_EXHAUSTED"


def test_retry_after_is_seconds_or_a_date() -> None:
    """Anything else is ignored."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after_s(Failed(Reply(429, {"Retry-After": "2.5"}))) == 2.5
    assert 25 < retry_after_s(Failed(Reply(429, {"retry-after": soon}))) <= 30
    assert retry_after_s(Failed(Reply(429, {"retry-after": "soon"}))) == 0
    assert retry_after_s(Failed(Reply(429))) == 0


@pytest.mark.parametrize("order", [1, -1])
def test_no_part_of_a_secret_is_left(order: int) -> None:
    """A name is a part of another one, whichever is looked for first."""
    secrets = ["models-of-us", "models-of-us-and-a-tenant"][::order]
    headers = dict(headers_of_error(ConnectError(f"no route to {max(secrets)}"), secrets=secrets))
    assert headers[b"x-llmp-message"].endswith(b"no route to [removed]")
