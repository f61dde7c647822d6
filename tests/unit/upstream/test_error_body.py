"""The error bodies of real providers, read: message, field, wait; and what is no error body."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted.failures import FAILURES

from llm_proxy.error_body import header_wait_s, parse_body, parse_document, parse_quoted_body, stated_wait_s

UNKNOWN = {name for name in FAILURES if name.startswith("unknown-")}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["error", "message", "detail", "x"]), inner)
    ),
)


@pytest.mark.parametrize("name", FAILURES)
def test_every_known_shape_has_a_message_and_no_other_has(name: str) -> None:
    """As a body and quoted in a text."""
    body = FAILURES[name].body
    text = body if isinstance(body, str) else json.dumps(body)
    found = parse_body(text)
    assert (found is None) == (name in UNKNOWN)
    if found is not None:
        assert found.message
        assert parse_quoted_body(f"XException - {text} and more") == found


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"detail": "Not authenticated"}, "Not authenticated", None),
        ({"detail": [{"loc": ["body", "n"], "msg": "too big"}]}, "n: too big", "n"),
        ({"error": {"error": "Violated a policy", "response": {"x": 1}}}, "Violated a policy", None),
        ({"errors": [{"message": "first"}, {"message": "second"}]}, "first; second", None),
        ({"error": {"message": '{"error": {"message": "inner", "param": "p"}}'}}, "inner", "p"),
        ([{"error": {"message": "in a list"}}], "in a list", None),
    ],
)
def test_messages_are_found_where_they_are(body: object, message: str, param: str | None) -> None:
    """In lists of issues, in an error inside an error."""
    found = parse_document(body)
    assert found is not None
    assert (found.message, found.param) == (message, param)


@given(JSON | st.text())
def test_no_json_and_no_text_raises(value: object) -> None:
    """Whatever it is."""
    parse_document(value)
    if isinstance(value, str):
        parse_body(value)
        parse_quoted_body(value)
        stated_wait_s(value)


def test_a_deep_body_is_no_error_body() -> None:
    """Nor does it raise."""
    deep: object = "x"
    for _ in range(3000):
        deep = {"message": deep}
    assert parse_document(deep) is None
    assert parse_body('{"message":' * 100_000) is None


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please try again in 2m59.56s.", 179.56),
        ("Please retry after 27 seconds.", 27),
        ("Please try again in 500ms", 0.5),
        ("Please retry in 34.074824224s.", 34.074824224),
        ("Please wait 1 hour", 3600),
        ("try again in 1h2m3s", 3723),
        ("please try again later", None),
        ("Limit 30000, Used 29000", None),
    ],
)
def test_a_wait_in_words(message: str, seconds: float | None) -> None:
    """In any unit."""
    assert stated_wait_s(message) == (None if seconds is None else pytest.approx(seconds))


def test_a_wait_in_headers() -> None:
    """Milliseconds, seconds or a date, a day at most; anything else is nothing."""
    assert header_wait_s({"Retry-After": "2.5"}) == 2.5
    assert header_wait_s({"retry-after": "9", "retry-after-ms": "1500"}) == 1.5
    assert header_wait_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert header_wait_s({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}) == 86_400
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (header_wait_s({"retry-after": soon}) or 0) <= 30
    for nothing in ("soon", "", "nan", "inf", "Wed, 99 Oct 2099 07:28:00 GMT"):
        assert header_wait_s({"retry-after": nothing}) is None
    assert header_wait_s({"retry-after": "-3"}) == 0
