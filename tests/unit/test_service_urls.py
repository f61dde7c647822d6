"""Addresses in settings: one reading, or an error that reveals nothing of the address."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection, parse_url

from llm_proxy.postgres_urls import client_parameters, parse_postgres_url, unused_parameters
from llm_proxy.redis_urls import parse_redis_url, redis_address
from llm_proxy.service_urls import InvalidURL, parse_http_url, parse_webhook_urls

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
        ("postgresql+S3cretPart://app:S3cretPart@host/db", "scheme"),
        ("prisma+postgres://app:S3cretPart@host/db", "Prisma"),
        ("postgresql://app:S3cretPart@host/db?gssencmode=require", "gssencmode is none of disable, prefer"),
        ("postgresql://app:S3cretPart@host/db?require_auth=md5", "require_auth is not supported"),
        ("postgresql://app:S3cretPart@fd00::1:5432/db", "IPv6 address stands in [ ]"),
        ("Server=h;Database=d;User Id=u;Password=S3cretPart;", "form"),
        ("host=h user=u password=S3cretPart dbname=d", "form"),
        ("u:S3cretPart@h/d", "form"),
        ("postgresql//u:S3cretPart@h/d", "form"),
        ("postgresql://u:S3cretPart%25%@h/d", "some of its % are escapes"),
        ("cockroachdb://root:S3cretPart@c:26257/d", "scheme"),
        ("postgresql+pg8000://u:S3cretPart@/db?unix_sock=relative", "unix_sock is no path"),
        ("postgresql://app:S3cretPart@host/db?sslmode=disable&channel_binding=require", "channel_binding"),
        ("postgresql://app:S3cretPart@host/db?channel_binding=S3cretPart", "channel_binding"),
        ("postgresql://app:S3cretPart@host/db?sslaccept=S3cretPart", "sslaccept"),
        ("postgresql://app:S3cretPart@host/db?schema=S3cret;Part", "schema"),
        ("postgresql://app:S3cretPart@host/db#S3cretPart", "host"),
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
        "S3cretPart",
        "app:S3cretPart@host:6379",
        "host:6379,S3cretPart",
        "host:6379,password=S3cretPart,ssl=S3cretPart",
        "host:6379,password=S3cretPart,defaultDatabase=S3cretPart",
        "redis+sentinel://:S3cretPart@a:26379,b:26379",
        "redis+sentinel://:S3cretPart@a:26379,b:26379/0",
        "redis+sentinel://:S3cretPart@a:S3cretPart/main",
        "redis+sentinel://:S3cretPart@a/main/S3cretPart",
        "redis+sentinel://:S3cretPart@a/main?S3cretPart=1",
        "redis+sentinel://S3cretPart@a/S3cret Part",
        "redis://:S3cretPart@a:6379,:6379",
        "redis://:S3cretPart@a:6379?ssl=S3cretPart",
        "redis://:S3cretPart@a:6379?family=S3cretPart",
        "redis://:S3cretPart@a:6379?socket_timeout=S3cretPart",
        "redis://:S3cretPart@a:6379?socket_connect_timeout=nan",
        "redis://:S3cretPart@a:6379?max_connections=-1",
        "unix:///run/redis.sock?health_check_interval=S3cretPart",
        "rediss://:S3cretPart@a:6379?ssl_cert_reqs=S3cretPart",
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


@pytest.mark.parametrize(
    ("url", "normalized"),
    [
        pytest.param(
            "postgresql://u:p@ep-x.neon.tech/d?sslmode=require&channel_binding=require",
            "postgresql://u:p@ep-x.neon.tech/d?sslmode=verify-full",
            id="neon",
        ),
        pytest.param(
            "postgresql://u:p@h/d?channel_binding=prefer", "postgresql://u:p@h/d", id="binding-prefer"
        ),
        pytest.param(
            "postgresql://u:p@h/d?schema=public&connection_limit=5&pool_timeout=10",
            "postgresql://u:p@h/d#connection_limit=5&pool_timeout=10",
            id="prisma",
        ),
        pytest.param(
            "postgresql://u:p@h/d?schema=litellm",
            "postgresql://u:p@h/d?search_path=%22litellm%22",
            id="schema",
        ),
        pytest.param("postgresql:///?service=prod", "postgresql://?service=prod", id="service"),
        pytest.param("postgresql://u:p@h/?dbname=d", "postgresql://u:p@h?dbname=d", id="dbname"),
        pytest.param(
            "postgres://u:p@h:6543/d?pgbouncer=true", "postgres://u:p@h:6543/d#pgbouncer=true", id="supabase"
        ),
        pytest.param(
            "postgresql://u:p@h/d?sslaccept=strict",
            "postgresql://u:p@h/d?sslmode=verify-full",
            id="sslaccept",
        ),
        pytest.param(
            "postgresql://u:p@h/d?sslmode=require&sslaccept=accept_invalid_certs",
            "postgresql://u:p@h/d?sslmode=require",
            id="sslaccept-invalid",
        ),
        pytest.param(
            "postgresql://u:p@h/d?sslrootcert=system",
            "postgresql://u:p@h/d?sslmode=verify-full",
            id="sslrootcert",
        ),
        pytest.param(
            "postgresql://u:p@h/d?connect_timeout=10&keepalives=1&keepalives_idle=30&sslmode=require",
            "postgresql://u:p@h/d?sslmode=require#connect_timeout=10&keepalives=1&keepalives_idle=30",
            id="keepalives",
        ),
        pytest.param(
            "postgresql://u:p@localhost/d?host=/cloudsql/a:b:c",
            "postgresql://u:p@/d?host=/cloudsql/a:b:c",
            id="cloud-sql-prisma",
        ),
        pytest.param(
            "postgresql://u:p@/d?host=/cloudsql/a:b:c",
            "postgresql://u:p@/d?host=/cloudsql/a:b:c",
            id="cloud-sql",
        ),
        pytest.param(
            "postgresql+asyncpg://u:p@h/d?ssl=require", "postgresql://u:p@h/d?sslmode=require", id="asyncpg"
        ),
        pytest.param("postgresql+psycopg2://u:p@h/d", "postgresql://u:p@h/d", id="psycopg2"),
        pytest.param("postgresql+psycopg://u:p@h/d", "postgresql://u:p@h/d", id="psycopg"),
        pytest.param(
            "postgres://u:p@h/d?sslmode=no-verify&uselibpqcompat=true",
            "postgres://u:p@h/d?sslmode=require#uselibpqcompat=true",
            id="node-postgres",
        ),
        pytest.param(
            "postgres://u:p@h:6543/d?sslmode=require&supa=base-pooler.x",
            "postgres://u:p@h:6543/d?sslmode=require#supa=base-pooler.x",
            id="vercel-supabase",
        ),
        pytest.param("POSTGRES://u:p@h/d?ssl=true", "postgres://u:p@h/d?sslmode=require", id="ssl-true"),
        pytest.param(
            "postgresql://u@h/d?passfile=/run/secrets/pgpass",
            "postgresql://u@h/d?passfile=/run/secrets/pgpass",
            id="passfile",
        ),
        pytest.param(
            "postgresql://app@server:p@server.postgres.database.azure.com/d?sslmode=require",
            "postgresql://app%40server:p@server.postgres.database.azure.com/d?sslmode=require",
            id="azure-single-server",
        ),
        pytest.param(
            "postgres://postgres:p@app-db.flycast:5432/app?sslmode=disable",
            "postgres://postgres:p@app-db.flycast:5432/app?sslmode=disable",
            id="fly",
        ),
        pytest.param(
            "postgres://avnadmin:AVNS_p@pg-x.aivencloud.com:12345/defaultdb?sslmode=require",
            "postgres://avnadmin:AVNS_p@pg-x.aivencloud.com:12345/defaultdb?sslmode=require",
            id="aiven",
        ),
        pytest.param(
            "postgresql://postgres.abcd:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?pgbouncer=true",
            "postgresql://postgres.abcd:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres#pgbouncer=true",
            id="supabase-pooler",
        ),
        pytest.param(
            "postgresql://root:p@c.cockroachlabs.cloud:26257/d?sslmode=verify-full&options=--cluster%3Dfoo-1",
            "postgresql://root:p@c.cockroachlabs.cloud:26257/d?sslmode=verify-full&options=--cluster%3Dfoo-1",
            id="cockroach",
        ),
        pytest.param(
            "postgresql://y:p@h:5433/y?load_balance=true&topology_keys=aws.us-east-1.*",
            "postgresql://y:p@h:5433/y#load_balance=true&topology_keys=aws.us-east-1.*",
            id="yugabyte",
        ),
        pytest.param(
            "postgresql+pg8000://u:p@/d?unix_sock=/cloudsql/a:b:c/.s.PGSQL.5432",
            "postgresql://u:p@/d?host=/cloudsql/a:b:c",
            id="cloud-sql-pg8000",
        ),
        pytest.param(
            "postgresql+psycopg://u:p@h/d?prepare_threshold=0",
            "postgresql://u:p@h/d#prepare_threshold=0",
            id="psycopg-pooler",
        ),
        pytest.param(
            "jdbc:postgresql://h:5432/d?user=u&password=p&currentSchema=llm",
            "postgresql://h:5432/d?user=u&password=p&search_path=%22llm%22",
            id="jdbc",
        ),
        pytest.param('"postgresql://u:p@h/d"', "postgresql://u:p@h/d", id="quoted"),
        pytest.param("postgresql://u:p@h/d?jit=off&", "postgresql://u:p@h/d?jit=off", id="last-ampersand"),
        pytest.param(
            "postgresql://u:p@h/d?gssencmode=disable", "postgresql://u:p@h/d", id="digitalocean-gss"
        ),
        pytest.param(
            "postgres://u:p@h/d?requiressl=1", "postgres://u:p@h/d?sslmode=require", id="requiressl"
        ),
        pytest.param(
            "postgresql://u:p@a:5432,b:5432/d?target_session_attrs=primary&load_balance_hosts=random",
            "postgresql://u:p@a:5432,b:5432/d?target_session_attrs=primary#load_balance_hosts=random",
            id="several-hosts",
        ),
        pytest.param(
            "postgres://u:h.rds.amazonaws.com:5432/?Action=connect&X-Amz-Signature=5f@h.rds.amazonaws.com/d",
            "postgres://u:h.rds.amazonaws.com%3A5432%2F%3FAction%3Dconnect%26X-Amz-Signature%3D5f"
            "@h.rds.amazonaws.com/d",
            id="rds-iam",
        ),
        pytest.param(
            "postgresql://u:p@h/d?options=endpoint%3Dep-x",
            "postgresql://u:p@h/d?options=endpoint%3Dep-x",
            id="options",
        ),
    ],
)
def test_other_clients_postgres_urls_are_translated(url: str, normalized: str) -> None:
    """Into the driver's words, and a second parsing changes nothing."""
    assert parse_postgres_url(url) == normalized
    assert parse_postgres_url(normalized) == normalized


@pytest.mark.parametrize(
    ("url", "normalized"),
    [
        pytest.param("valkey://u:p@h:6379/1", "redis://u:p@h:6379/1", id="valkey"),
        pytest.param("redis://:p@h:6379?family=0", "redis://:p@h:6379", id="railway"),
        pytest.param("valkeys://u:p@h:6379", "rediss://u:p@h:6379", id="valkeys"),
        pytest.param("rediss://default:p@h:6380", "rediss://default:p@h:6380", id="user"),
        pytest.param("redis.internal:6379", "redis://redis.internal:6379", id="host-port"),
        pytest.param(
            "x.redis.cache.windows.net:6380,password=a/b+c=,ssl=True,abortConnect=False",
            "rediss://:a%2Fb%2Bc%3D@x.redis.cache.windows.net:6380",
            id="azure",
        ),
        pytest.param(
            "a:6379,b:6379,password=x,ssl=True,name=litellm",
            "rediss://:x@a:6379,b:6379",
            id="stackexchange-hosts",
        ),
        pytest.param("redis://:p@a:6379?ssl=true", "rediss://:p@a:6379", id="ssl-true"),
        pytest.param("'redis://:p@a:6379'", "redis://:p@a:6379", id="quoted"),
        pytest.param(
            "rediss://default:a/b@x.upstash.io:6379", "rediss://default:a%2Fb@x.upstash.io:6379", id="upstash"
        ),
        pytest.param("redis://:p@a:6379,b:6380,c/0", "redis://:p@a:6379,b:6380,c/0", id="host-list"),
        pytest.param("redis-cluster://u:p@a:6379,b", "redis+cluster://u:p@a:6379,b", id="cluster"),
        pytest.param("valkeys+cluster://u:p@a:6379", "rediss+cluster://u:p@a:6379", id="valkey-cluster-tls"),
        pytest.param(
            "redis+sentinel://:p@a:26379,b/main?sentinel_password=s",
            "redis+sentinel://:p@a:26379,b/main?sentinel_password=s",
            id="sentinel",
        ),
        pytest.param(
            "redis+sentinel://:p/w@a,b/main/2", "redis+sentinel://:p%2Fw@a,b/main?db=2", id="sentinel-db"
        ),
        pytest.param(
            "redis-sentinel://:p@a:26379/0?sentinelMasterId=main",
            "redis+sentinel://:p@a:26379/main?db=0",
            id="sentinel-lettuce",
        ),
        pytest.param(
            "redis-sentinel://:p@a:26379/1#main", "redis+sentinel://:p@a:26379/main?db=1", id="lettuce-hash"
        ),
        pytest.param(
            "sentinel://a:26379?service_name=main", "redis+sentinel://a:26379/main", id="service-name"
        ),
        pytest.param(
            "rediss+sentinel://u:p@[fd00::1]:26379/main?ssl_ca_certs=/ca.pem",
            "rediss+sentinel://u:p@[fd00::1]:26379/main?ssl_ca_certs=/ca.pem",
            id="sentinel-tls",
        ),
        pytest.param(
            "rediss://:p@h?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
            "rediss://:p@h?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
            id="ssl-ca-certs",
        ),
        pytest.param("rediss://h?ssl_cert_reqs=CERT_NONE", "rediss://h?ssl_cert_reqs=none", id="celery"),
        pytest.param(
            "redis://h?protocol=3&decode_responses=True&encoding=utf-8&timeout=5&socket_timeout=0.5",
            "redis://h?socket_timeout=0.5",
            id="redis-py",
        ),
    ],
)
def test_other_clients_redis_urls_are_translated(url: str, normalized: str) -> None:
    """A second parsing changes nothing."""
    assert parse_redis_url(url) == normalized
    assert parse_redis_url(normalized) == normalized


def test_parameters_without_effect_are_told() -> None:
    """By name, without their values."""
    given = "pgbouncer=true&connection_limit=5&pool_timeout=3&connect_timeout=9&keepalives=1&supa=S3cretPart"
    url = parse_postgres_url(f"postgres://h/d?{given}")
    [line] = unused_parameters(url)
    assert line.endswith("keepalives, supa")
    assert client_parameters(url)["connection_limit"] == "5"
    [line] = unused_parameters(parse_postgres_url("postgres://u:h/?X-Amz-Signature=5f@h/d"))
    assert "ends after 15 minutes" in line
    assert unused_parameters(parse_postgres_url("postgres://h/d?jit=off")) == []


def test_a_list_of_hosts_is_taken_apart() -> None:
    """Each with the common password and parameters; servers apart from Sentinels."""
    found = redis_address("rediss+sentinel://u:p@a,[::1]:1/main?db=3&sentinel_password=s%26&ssl_ca_certs=/c")
    assert (found.kind, found.service, found.servers) == ("sentinel", "main", ())
    assert found.sentinels == (
        "rediss://:s%26@a:26379?ssl_ca_certs=/c",
        "rediss://:s%26@[::1]:1?ssl_ca_certs=/c",
    )
    assert found.server_at("h", 7) == "rediss://u:p@h:7?db=3&ssl_ca_certs=/c"
    found = redis_address("redis+cluster://:p@a,b:1/0")
    assert (found.kind, found.servers) == ("cluster", ("redis://:p@a:6379/0", "redis://:p@b:1/0"))
    assert redis_address("unix:///run/s?db=1").servers == ("unix:///run/s?db=1",)


@pytest.mark.parametrize(
    "text",
    [
        "redis://h", "redis://:p%40%2F@h:7000/2", "rediss://u%3A:p@[::1]:7000?db=3", "redis://h/2?db=4",
        "redis://h:1/0?ssl_ca_certs=/c%20d", "unix:///run/my%20s?db=5&password=p%26", "unix:///run/s",
    ],
)  # fmt: skip
def test_an_address_is_read_as_redis_py_reads_it(text: str) -> None:
    """The same socket or host, the same login, the same database."""
    url = redis_address(parse_redis_url(text)).servers[0]
    found, expected = redis_address(url), dict[str, Any](parse_url(url))
    user, password = found.credentials
    assert found.socket_path == expected.get("path", "")
    assert found.hosts[:1] == (((expected["host"], expected["port"]),) if "host" in expected else ())
    assert user == expected.get("username", "")
    assert password == expected.get("password", "")
    assert found.database == expected.get("db", 0)
    assert found.is_tls == (expected.get("connection_class") is SSLConnection)
