"""Request headers that shape a call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects.call import CacheControl
from llm_proxy.dialects.request_options import NO_OPTIONS, RequestOptions, parse_request_options
from llm_proxy.errors import BadRequest


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"no-cache", CacheControl(no_cache=True)),
        (b"No-Store, no-cache", CacheControl(no_cache=True, no_store=True)),
        (b"max-age=60", CacheControl(max_age_s=60)),
        (b'max-age="60", max-age=30', CacheControl(max_age_s=30)),
        (b"max-age=0", CacheControl(max_age_s=0)),
        (b"private, only-if-cached, x=y", CacheControl()),
        (b"", CacheControl()),
    ],
)
def test_cache_control_is_parsed(value: bytes, expected: CacheControl) -> None:
    """In any case and order; unknown directives are ignored."""
    assert parse_request_options([(b"cache-control", value)]).cache == expected


def test_provider_timeout_and_internal_auth_are_parsed() -> None:
    """Each from its own header."""
    headers = [
        (b"x-provider", b" Anthropic "),
        (b"x-request-timeout", b"2.5"),
        (b"x-internal-auth", b"key"),
        (b"accept", b"*/*"),
    ]
    assert parse_request_options(headers) == RequestOptions(
        "anthropic", CacheControl(), 2.5, may_omit_model=True
    )
    assert parse_request_options([(b"accept", b"*/*")]) is NO_OPTIONS


@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        (b"x-provider", b"a/b", "X-Provider"),
        (b"x-provider", b"", "X-Provider"),
        (b"x-request-timeout", b"soon", "X-Request-Timeout"),
        (b"x-request-timeout", b"0", "X-Request-Timeout"),
        (b"x-request-timeout", b"inf", "X-Request-Timeout"),
        (b"cache-control", b"max-age=soon", "Cache-Control"),
    ],
)
def test_an_invalid_value_is_rejected_with_the_headers_name(name: bytes, value: bytes, param: str) -> None:
    """400 with `param`."""
    with pytest.raises(BadRequest) as error:
        parse_request_options([(name, value)])
    assert error.value.param == param


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"x-provider", b"cache-control", b"x-request-timeout"]), st.binary(max_size=20)
        ),
        max_size=3,
    )
)
def test_any_headers_are_options_or_an_api_error(headers: list[tuple[bytes, bytes]]) -> None:
    """Any bytes."""
    assert _outcome(headers)


def _outcome(headers: list[tuple[bytes, bytes]]) -> RequestOptions | str | None:
    """The options, or the rejected header."""
    try:
        return parse_request_options(headers)
    except BadRequest as error:
        return error.param


def test_anthropics_headers_are_read_as_they_are_sent() -> None:
    """Its version is judged by its dialect alone; words spelled like no beta's name are left out."""
    options = parse_request_options(
        [
            (b"anthropic-version", b" 2023-06-01 "),
            (b"anthropic-beta", b"a-1, b_2,,a-1"),
            (b"anthropic-beta", b"c d"),
        ]
    )
    assert options.anthropic_version == "2023-06-01"
    assert options.anthropic_betas == ("a-1", "b_2")
    assert parse_request_options([(b"anthropic-version", b"tomorrow")]).anthropic_version == "tomorrow"
