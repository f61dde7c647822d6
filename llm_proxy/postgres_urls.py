"""Parses addresses of Postgres.

Pure. Invariants: as in `service_urls`; other clients' words are translated, so that all later readers agree.
Parameters for the client that opens the connections stand in the fragment, which the driver does not read.
Source: https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-CONNSTRING-URIS.
"""

import re
from urllib.parse import quote, unquote

from llm_proxy.service_urls import (
    ENCODE_HINT,
    InvalidURL,
    check_host,
    check_port,
    encode_credentials,
    match_location,
    parse_query,
    split_scheme,
    without_quotes,
)

SIDECAR_ROLE = "llm_proxy_sidecar"
"""The role by which sidecars write `llm_calls`, and nothing else."""
_SSLMODES = frozenset({"disable", "allow", "prefer", "require", "no-verify", "verify-ca", "verify-full"})
_VALUES = {
    "channel_binding": ("prefer", "require", "disable"),
    "sslaccept": ("strict", "accept_invalid_certs"),
    "ssl": ("true", "false", *sorted(_SSLMODES)),
    "gssencmode": ("disable", "prefer"),
    "requiressl": ("0", "1"),
}
_SCHEMA = re.compile(r"[\w-]+")
_POSTGRES_PARAMETERS = frozenset(
    [
        "host",
        "port",
        "dbname",
        "database",
        "user",
        "password",
        "passfile",
        "service",
        "krbsrvname",
        "gsslib",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslrootcert",
        "sslcrl",
        "sslpassword",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "target_session_attrs",
        "application_name",
        "search_path",
        "options",
        "role",
        "work_mem",
        "jit",
        "timezone",
        "datestyle",
        "statement_timeout",
        "lock_timeout",
        "idle_session_timeout",
        "idle_in_transaction_session_timeout",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_keepalives_count",
        "tcp_user_timeout",
        "client_min_messages",
        "default_transaction_read_only",
        "client_connection_check_interval",
    ]
)
_CLIENT_PARAMETERS = frozenset(
    [
        "connection_limit",
        "pool_timeout",
        "socket_timeout",
        "connect_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "pgbouncer",
        "statement_cache_size",
        "prepared_statement_cache_size",
        "prepare_threshold",
        "preparethreshold",
        "command_timeout",
        "load_balance",
        "load_balance_hosts",
        "topology_keys",
        "yb_servers_refresh_interval",
        "max_protocol_version",
        "min_protocol_version",
        "sslcompression",
        "single_use_connections",
        "supa",
        "uselibpqcompat",
    ]
)
"""Parameters of other clients for themselves; those that are not obeyed have a counterpart in the gateway."""
_OBEYED_PARAMETERS = frozenset(
    [
        "connection_limit",
        "pool_timeout",
        "connect_timeout",
        "pgbouncer",
        "statement_cache_size",
        "prepared_statement_cache_size",
        "prepare_threshold",
        "preparethreshold",
    ]
)
_UNUSED = re.compile(rf"(&?({'|'.join(sorted(_CLIENT_PARAMETERS, key=len, reverse=True))})=[^?#@&]*)+")
_TRANSLATED_PARAMETERS = frozenset(
    {
        "channel_binding",
        "schema",
        "currentschema",
        "ssl",
        "sslaccept",
        "unix_sock",
        "gssencmode",
        "requiressl",
    }
)
_SCHEMES = re.compile(
    r"(postgresql|postgres)(\+(asyncpg|psycopg|psycopg2|psycopg2cffi|psycopg_async|pg8000))?", re.ASCII
)


def parse_postgres_url(text: str) -> str:
    """Returns the normalized address of a Postgres database; raises `InvalidURL`."""
    form = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    whole = without_quotes(text).removeprefix("jdbc:")
    match = _SCHEMES.fullmatch(whole.partition("://")[0].lower())
    scheme = match[1] if match else "postgresql"
    known = (match[0],) if match else ("postgresql", "postgres")
    _, _, rest = split_scheme(whole, known, form)
    return f"{scheme}://{_translate_postgres(encode_credentials(rest, _check_postgres))}"


def unused_parameters(url: str) -> list[str]:
    """Returns a line for each reason why parameters of a normalized Postgres address have no effect."""
    names = [name for name in client_parameters(url) if name not in _OBEYED_PARAMETERS]
    lines = [f"DATABASE_URL: without effect, the gateway's own apply: {', '.join(names)}"] if names else []
    if "X-Amz-Signature" in unquote(url):
        lines.append("DATABASE_URL: its password is a token of AWS IAM, which ends after 15 minutes")
    return lines


def client_parameters(url: str) -> dict[str, str]:
    """Returns what a normalized Postgres address says to the client that opens the connections."""
    pairs = (pair.partition("=") for pair in url.partition("#")[2].split("&") if pair)
    return {name: unquote(value) for name, _, value in pairs}


def _check_postgres(location: str) -> None:
    location, mark, unused = location.partition("#")
    if mark and not _UNUSED.fullmatch(unused):
        raise InvalidURL(f"what follows its host is not understood: {ENCODE_HINT}")
    known = _POSTGRES_PARAMETERS | _CLIENT_PARAMETERS | _TRANSLATED_PARAMETERS
    query = parse_query(match := match_location(location), known)
    if query.get("sslmode", "prefer") not in _SSLMODES:
        raise InvalidURL(f"its sslmode is none of {', '.join(sorted(_SSLMODES))}")
    for name, values in _VALUES.items():
        if query.get(name, values[0]) not in values:
            raise InvalidURL(f"its {name} is none of {', '.join(values)}")
    if not _SCHEMA.fullmatch(query.get("schema", "public")):
        raise InvalidURL("its schema is no name of letters, digits, _ and -")
    if not query.get("unix_sock", "/").startswith("/"):
        raise InvalidURL("its unix_sock is no path")
    if (port := query.get("port")) is not None:
        check_port(port)
    if not match["hosts"] and query.keys() & {"host", "unix_sock", "service"}:
        return
    for one in match["hosts"].split(","):
        check_host(one)


def _translate_postgres(address: str) -> str:
    """Returns a checked address in the driver's words."""
    location, mark, text = address.partition("?")
    if not mark or not text or "#" in text:  # nothing to do, or done before
        return address
    query: dict[str, str] = {}
    for pair in filter(None, text.split("&")):
        name, _, value = pair.partition("=")
        query[name.lower() if "." not in name else name] = value
    _translate_tls(query)
    schema = unquote(query.pop("schema", query.pop("currentschema", "public")))
    if schema != "public":
        query["search_path"] = quote(f'"{schema}"', safe="")
    if "unix_sock" in query:  # of pg8000: a file in the folder that others name
        query["host"] = quote(unquote(query.pop("unix_sock")).rpartition("/")[0] or "/", safe="/:")
    if "host" in query and not location.startswith("/"):
        location = _drop_host(location, query)
    if not location.partition("/")[2]:  # with an empty name the driver looks for none among the parameters
        location = location.removesuffix("/")
    unused = "&".join(f"{name}={query.pop(name)}" for name in sorted(_CLIENT_PARAMETERS & query.keys()))
    kept = "&".join(f"{name}={value}" for name, value in query.items())
    return f"{location}{f'?{kept}' if kept else ''}{f'#{unused}' if unused else ''}"


def _translate_tls(query: dict[str, str]) -> None:
    """Replaces what asks for TLS in other words by `sslmode`.

    The driver has no channel binding. A verified certificate keeps out the same attacker.
    """
    ssl = query.pop("ssl", None)
    if ssl is not None:
        query.setdefault("sslmode", {"true": "require", "false": "disable"}.get(ssl, ssl))
    if query.pop("requiressl", "0") == "1":
        query.setdefault("sslmode", "require")
    query.pop("gssencmode", None)  # the driver has none
    if query.get("sslmode") == "no-verify":  # of node-postgres
        query["sslmode"] = "require"
    asked = [
        name
        for name, value in (
            ("channel_binding", "require"),
            ("sslaccept", "strict"),
            ("sslrootcert", "system"),
        )
        if query.get(name) == value
    ]
    for name in ("channel_binding", "sslaccept"):
        query.pop(name, None)
    if not asked:
        return
    if query.get("sslmode") == "disable":
        raise InvalidURL(f"its {asked[0]} asks for TLS, and its sslmode is disable")
    if "sslrootcert" in asked:
        del query["sslrootcert"]
    if not query.get("sslmode", "").startswith("verify-"):
        query["sslmode"] = "verify-full"


def _drop_host(location: str, query: dict[str, str]) -> str:
    """Returns the location without its host: the parameter `host` has precedence in libpq and Prisma."""
    before, slash, database = location.partition("/")
    who, at, hosts = before.rpartition("@")
    port = hosts.rpartition(":")[2] if ":" in hosts and not hosts.endswith("]") else ""
    if port:
        query.setdefault("port", port)
    return f"{who}{at}{slash}{database}"
