"""What is read out of an error of LiteLLM's."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llm_proxy.sidecar.provider_errors import headers_of_error, retry_after_s


@dataclass
class Reply:
    """A provider's answer, as HTTP clients hold it."""

    status_code: int
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    text: str = ""


class Failed(Exception):  # noqa: N818 -- a shape, not a state
    """An error that holds an answer."""

    def __init__(self, response: Reply | None = None, message: str = "", body: object = None) -> None:
        super().__init__(message)
        self.response, self.message, self.body = response, message, body


def found(error: BaseException | None) -> dict[str, str]:
    """The headers as text."""
    return {name.decode(): value.decode() for name, value in headers_of_error(error)}


def test_the_words_are_read_wherever_they_are() -> None:
    """In the body an SDK parsed, in the answer's text, in the message of an error that quotes it."""
    said = {"message": "m", "type": "t", "code": "c", "param": "p"}
    text = '{"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}'
    expected = {
        "x-llmp-provider-status": "400",
        "x-llmp-provider-code": "c",
        "x-llmp-provider-type": "t",
        "x-llmp-provider-param": "p",
        "x-llmp-message": "m",
    }
    assert found(Failed(Reply(400), body=said)) == expected
    assert found(Failed(Reply(400, text=text))) == expected
    assert found(Failed(Reply(400), message=f"XException - {text} and more")) == expected


def test_the_error_it_was_made_of_is_found() -> None:
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
def test_where_no_provider_spoke_there_is_no_header(error: BaseException | None) -> None:
    """LiteLLM makes answers up; those have no headers. The class of the error is told, none of its text."""
    told = {} if error is None else {"x-llmp-origin": "answer", "x-llmp-message": type(error).__name__}
    assert found(error) == told


def test_values_are_short_printable_ascii() -> None:
    """A provider's words cannot break a header."""
    said = {"code": "a\r\nset-cookie: x\u20ac" + "y" * 300}
    value = found(Failed(Reply(400), body=said))["x-llmp-provider-code"]
    assert value.isascii()
    assert value.isprintable()
    assert len(value) <= 200


def test_google_s_word_is_in_status() -> None:
    """Its code is the HTTP status."""
    said = {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}
    assert found(Failed(Reply(429), body=said))["x-llmp-provider-code"] == "RESOURCE_EXHAUSTED"


def test_retry_after_is_seconds_or_a_date() -> None:
    """Anything else is nothing."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after_s(Failed(Reply(429, {"Retry-After": "2.5"}))) == 2.5
    assert 25 < retry_after_s(Failed(Reply(429, {"retry-after": soon}))) <= 30
    assert retry_after_s(Failed(Reply(429, {"retry-after": "soon"}))) == 0
    assert retry_after_s(Failed(Reply(429))) == 0
