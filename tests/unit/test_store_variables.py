"""Addresses of stores in several variables: as LiteLLM and libpq read them, or refused by name."""

import pytest

from llm_proxy.postgres_urls import parse_postgres_url
from llm_proxy.redis_urls import parse_redis_url
from llm_proxy.service_urls import InvalidURL
from llm_proxy.settings import load
from llm_proxy.store_variables import database_url_of, redis_url_of

LITELLM = {"DATABASE_HOST": "h", "DATABASE_USERNAME": "u", "DATABASE_PASSWORD": "p/@", "DATABASE_NAME": "d"}
LIBPQ = {"PGHOST": "h", "PGUSER": "u", "PGDATABASE": "d"}


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        pytest.param(LITELLM, "postgresql://u:p%2F%40@h/d", id="litellm"),
        pytest.param(
            {"DATABASE_HOST": "h", "DATABASE_PORT": "5433", "DATABASE_USER": "u", "DATABASE_NAME": "d"},
            "postgresql://u@h:5433/d",
            id="litellm-no-password",
        ),
        pytest.param(
            {**LITELLM, "DATABASE_SCHEMA": "litellm", "DATABASE_SSLROOTCERT": "/ca.pem"},
            "postgresql://u:p%2F%40@h/d?sslrootcert=%2Fca.pem&sslmode=verify-full&search_path=%22litellm%22",
            id="litellm-schema-tls",
        ),
        pytest.param({**LIBPQ, "PGPASSWORD": "p", "PGPORT": "5433"}, "postgresql://u:p@h:5433/d", id="libpq"),
        pytest.param(
            {**LIBPQ, "PGHOST": "/run/pg", "PGPORT": "5433"},
            "postgresql://u@/d?host=%2Frun%2Fpg&port=5433",
            id="libpq-socket",
        ),
        pytest.param(
            {**LIBPQ, "PGSSLMODE": "require", "PGPASSFILE": "/run/pgpass"},
            "postgresql://u@h/d?sslmode=require&passfile=%2Frun%2Fpgpass",
            id="libpq-parameters",
        ),
        pytest.param({**LIBPQ, "PGHOST": "::1"}, "postgresql://u@[::1]/d", id="ipv6"),
    ],
)
def test_database_url_is_assembled(variables: dict[str, str], url: str) -> None:
    """The password is percent-encoded."""
    assert parse_postgres_url(database_url_of(variables) or "") == url


@pytest.mark.parametrize("variables", [{}, {"PGHOST": "h"}, {"PGUSER": "u", "PGDATABASE": "d"}])
def test_without_a_whole_set_of_libpq_variables_there_is_no_database(variables: dict[str, str]) -> None:
    """A shell's `PGHOST` alone is for psql."""
    assert database_url_of(variables) is None


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        pytest.param({"REDIS_HOST": "h"}, "redis://h:6379/0", id="host"),
        pytest.param(
            {"REDIS_HOST": "h", "REDIS_PORT": "6380", "REDIS_PASSWORD": "p/@", "REDIS_SSL": "True"},
            "rediss://:p%2F%40@h:6380/0",
            id="tls",
        ),
        pytest.param(
            {"REDIS_HOST": "h", "REDIS_USERNAME": "u", "REDIS_PASSWORD": "p", "REDIS_DB": "2"},
            "redis://u:p@h:6379/2",
            id="user-number",
        ),
        pytest.param(
            {"REDIS_HOST": "h", "REDIS_SSL": "true", "REDIS_SSL_CA_CERTS": "/ca.pem"},
            "rediss://h:6379/0?ssl_ca_certs=%2Fca.pem",
            id="ca",
        ),
        pytest.param(
            {
                "REDIS_SENTINEL_NODES": '[["a", 26379], ["::1", "26380"]]',
                "REDIS_SERVICE_NAME": "main",
                "REDIS_PASSWORD": "p/w",
                "REDIS_SENTINEL_PASSWORD": "s&p",
            },
            "redis+sentinel://:p%2Fw@a:26379,[::1]:26380/main?sentinel_password=s%26p",
            id="sentinel",
        ),
        pytest.param(
            {
                "REDIS_CLUSTER_NODES": '[{"host": "a", "port": 7000}, {"host": "b", "port": "7001"}]',
                "REDIS_SSL": "1",
            },
            "rediss+cluster://a:7000,b:7001",
            id="cluster",
        ),
    ],
)
def test_redis_url_is_assembled(variables: dict[str, str], url: str) -> None:
    """The password is percent-encoded."""
    assert parse_redis_url(redis_url_of(variables) or "") == url


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"DATABASE_HOST": "h", "DATABASE_USER": "u"}, "DATABASE_NAME"),
        ({"DATABASE_HOST": "h", "DATABASE_NAME": "d"}, "DATABASE_USER"),
        ({**LITELLM, "IAM_TOKEN_DB_AUTH": "true"}, "IAM_TOKEN_DB_AUTH"),
        ({**LITELLM, "AZURE_POSTGRESQL_AUTH": "True"}, "AZURE_POSTGRESQL_AUTH"),
    ],
)
def test_database_that_cannot_be_used_is_refused_by_name(variables: dict[str, str], name: str) -> None:
    """Missing parts, and tokens."""
    with pytest.raises(InvalidURL, match=name):
        database_url_of(variables)


@pytest.mark.parametrize(
    "name",
    [
        "REDIS_AWS_IAM_AUTH",
        "REDIS_GCP_SERVICE_ACCOUNT",
        "REDIS_AZURE_REDIS_AD_TOKEN",
        "REDIS_AZURE_AD_TOKEN",
    ],
)
def test_redis_that_cannot_be_used_is_refused_by_name(name: str) -> None:
    """Tokens need a library of the cloud's, and a new one each hour."""
    with pytest.raises(InvalidURL, match=name):
        redis_url_of({"REDIS_HOST": "h", name: "true"})


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"REDIS_SENTINEL_NODES": '[["S3cretPart", 26379]]'}, "REDIS_SERVICE_NAME"),
        ({"REDIS_SENTINEL_NODES": "S3cretPart:26379", "REDIS_SERVICE_NAME": "m"}, "REDIS_SENTINEL_NODES"),
        ({"REDIS_CLUSTER_NODES": '{"host": "S3cretPart"}'}, "REDIS_CLUSTER_NODES"),
        ({"REDIS_CLUSTER_NODES": '[{"host": "S3cretPart"}]'}, "REDIS_CLUSTER_NODES"),
        ({"REDIS_CLUSTER_NODES": "[]"}, "REDIS_CLUSTER_NODES"),
    ],
)
def test_an_unreadable_list_of_nodes_is_refused_by_name(variables: dict[str, str], name: str) -> None:
    """With the form that is meant."""
    with pytest.raises(InvalidURL, match=name) as refused:
        redis_url_of(variables)
    assert "S3cretPart" not in str(refused.value)


def test_one_address_has_precedence_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the same store's other variables, which are then not even checked."""
    monkeypatch.setenv("DATABASE_HOST", "h")
    monkeypatch.setenv("DATABASE_URL", "postgresql://a/b")
    monkeypatch.setenv("REDIS_HOST", "r")
    settings = load()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://a/b"
    assert settings.limits_redis_url is not None
    assert settings.limits_redis_url.get_secret_value() == "redis://r:6379/0"
