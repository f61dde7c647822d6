"""Addresses in settings: one reading, or an error that reveals nothing of the address."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.service_urls import (
    InvalidURL,
    parse_http_url,
    parse_postgres_url,
    parse_redis_url,
    parse_webhook_urls,
)

SECRET = "S3cretPart"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_encoded_password_is_unchanged(password: str) -> None:
    """Parsing is idempotent."""
    url = f"postgresql://app:{quote(password, safe='')}@db.internal:5432/app?sslmode=require"
    assert parse_postgres_url(url) == url
    url = f"rediss://:{quote(password, safe='')}@[::1]:6379/2"
    assert parse_redis_url(url) == url


@pytest.mark.parametrize(
    "password", ["a/b", "a#b", "a?b", "a@b", "a:b", "100%sure", "a/b@c:d#e?f%", "@", "[x]", "a b", "ü"]
)
def test_unencoded_password_is_accepted_if_unambiguous(password: str) -> None:
    """It is percent-encoded."""
    encoded = quote(password, safe="")
    assert (
        parse_postgres_url(f"postgres://app:{password}@h:5432/app") == f"postgres://app:{encoded}@h:5432/app"
    )
    assert parse_redis_url(f"redis://:{password}@h:6379/0") == f"redis://:{encoded}@h:6379/0"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:1234/x@host",  # the host `app` and the database `x@host`, or a password
        "postgresql://app:1?application_name=x@host/db",
        "postgresql://app:50%25off%@host/db",
        "postgresql://app:%ff@host/db",
        "postgresql://app:%00@host/db",
    ],
)
def test_ambiguous_address_is_rejected(url: str) -> None:
    """The error says what to do."""
    with pytest.raises(InvalidURL):
        parse_postgres_url(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://app:S3cretPart@host:S3cretPart/db", "port"),
        ("postgresql://app:S3cretPart@host:0/db", "port"),
        ("postgresql://app:S3cretPart@host:65536/db", "port"),
        ("postgresql://app:S3cretPart@host:-1/db", "port"),
        ("postgresql://app:S3cretPart@host:\u0665/db", "port"),
        ("postgresql://app:S3cretPart@:5432/db", "host"),
        ("postgresql://app:S3cretPart@/db", "host"),
        ("postgresql:///S3cretPart", "host"),
        ("postgresql://", "host"),
        ("sqlite:///S3cretPart.db", "scheme"),
        ("mysql://app:S3cretPart@host/db", "scheme"),
        ("S3cretPart", "form"),
        ("postgresql:app:S3cretPart@host/db", "form"),
        ("postgresql+asyncpg://app:S3cretPart@host/db", "scheme"),
        ("postgresql://app:S3cretPart@host/db?S3cretPart=1", "parameter 1"),
        ("postgresql://app@host/db?application_name=x&pool=S3cretPart", "parameter 2"),
        ("postgresql://app@host/db?S3cretPart", "parameter 1"),
        ("postgresql://app@host/db?sslmode=S3cretPart", "sslmode"),
        ("postgresql://app@host/db?port=S3cretPart", "port"),
        ("postgresql://app@host/db/S3cretPart", "host"),
        ("postgresql://app:S3cretPart@ho st/db", "host"),
    ],
)
def test_invalid_postgres_url_is_rejected_without_revealing_it(url: str, reason: str) -> None:
    """The error is one line with the reason."""
    with pytest.raises(InvalidURL) as refused:
        parse_postgres_url(url)
    assert reason in str(refused.value)
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:S3cretPart@host:S3cretPart/0",
        "redis://:S3cretPart@host:6379/S3cretPart",
        "redis://:S3cretPart@host:6379?db=S3cretPart",
        "redis://:S3cretPart@",
        "redis://:S3cretPart@host?S3cretPart=1",
        "http://:S3cretPart@host:6379",
        "unix://S3cretPart",
        "S3cretPart:6379",
    ],
)
def test_invalid_redis_url_is_rejected_without_revealing_it(url: str) -> None:
    """The error is one line with the reason."""
    with pytest.raises(InvalidURL) as refused:
        parse_redis_url(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///app?host=/var/run/postgresql",
        "postgresql://app@%2Fvar%2Frun%2Fpostgresql/app",
        "postgresql://app:pw@a:5432,b:5433/app?target_session_attrs=primary",
        "postgresql://app:pw@[2001:db8::1]:5432/app?options=-c%20jit%3Doff&my.setting=1",
    ],
)
def test_valid_postgres_url_is_unchanged(url: str) -> None:
    """Sockets, several hosts, IPv6, session parameters."""
    assert parse_postgres_url(url) == url


def test_valid_redis_url_is_unchanged() -> None:
    """Sockets, users, a scheme in capitals."""
    assert parse_redis_url("unix:///run/valkey.sock?db=1") == "unix:///run/valkey.sock?db=1"
    assert parse_redis_url(" REDISS://app:pw@host \n") == "rediss://app:pw@host"


@pytest.mark.parametrize(
    "url",
    [
        "http://h:x",
        "http://h:1-99999",
        "http://h:9-1",
        "http://",
        "ftp://h",
        "h:4000",
        "http://u:S3cretPart@h",
    ],
)
def test_invalid_sidecar_url_is_rejected(url: str) -> None:
    """A range has at most 1024 ports."""
    with pytest.raises(InvalidURL) as refused:
        parse_http_url(url)
    assert SECRET not in str(refused.value)


def test_valid_sidecar_url_is_unchanged() -> None:
    """With a port range, with a path, without a port."""
    for url in ("http://127.0.0.1:4101-4108/v1", "https://sidecar.internal", "http://[::1]:4000/"):
        assert parse_http_url(url) == url


def test_webhooks_are_parsed_with_their_formats() -> None:
    """Commas within an address are kept; duplicates are removed."""
    teams = "https://prod.logic.example/triggers/manual?sp=%2Ftriggers%2Fmanual,run&sig=x=y"
    read = parse_webhook_urls(
        f"json=http://h:8080/a, slack=https://s.example/b,json=http://h:8080/a,teams={teams}"
    )
    assert read == (("json", "http://h:8080/a"), ("slack", "https://s.example/b"), ("teams", teams))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://h/S3cretPart",
        "mail=https://h/S3cretPart",
        "json=h/S3cretPart",
        "json=ftp://h/S3cretPart",
        "json=https://S3cretPart@h/",
        "json=https://h:1-2/S3cretPart",
        "json=https://h/a,S3cretPart=https://h/b",
        "json=https:///S3cretPart",
    ],
)
def test_invalid_webhook_is_rejected_without_revealing_it(text: str) -> None:
    """A webhook's address is a secret."""
    with pytest.raises(InvalidURL) as fault:
        parse_webhook_urls(text)
    assert SECRET not in str(fault.value)
