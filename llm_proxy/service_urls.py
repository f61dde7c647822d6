"""Parses the addresses in settings: Postgres, Redis, sidecars, webhooks.

Pure. Invariants: in a returned address user and password are percent-encoded, and other clients' words are
translated, so that all later readers agree. An address is accepted if it can be read in one way only. An
error holds no part of it. Parameters without effect stand in the fragment, which the driver does not read.
Sources: RFC 3986; https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-CONNSTRING-URIS.
"""

import re
from collections.abc import Callable
from typing import Literal
from urllib.parse import quote, unquote

_ENCODE = "percent-encode /, #, ?, @, : and % in its user and password"
_USER = re.compile(r"[^/?#@:\[\]]*")
_LOCATION = re.compile(r"(?P<hosts>[^/?#]*)(?:/(?P<path>[^/?#]*))?(?:\?(?P<query>[^?#]*))?")
_SOCKET = re.compile(r"(?P<path>/[^?#]*)(?:\?(?P<query>[^?#]*))?")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|(?:[\w.~-]|%[0-9A-Fa-f]{2})+)?(?::(?P<port>.*))?")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_PORT = re.compile(r"0*[1-9][0-9]{0,4}", re.ASCII)
_PORTS = re.compile(r"0*([1-9][0-9]{0,4})(?:-0*([1-9][0-9]{0,4}))?", re.ASCII)
_MAX_PORT = 65_535
_MAX_PORTS = 1024

WebhookFormat = Literal["json", "slack", "teams"]
_WEBHOOK_FORMS: dict[str, WebhookFormat] = {"json": "json", "slack": "slack", "teams": "teams"}
_PORT_RANGE = re.compile(r"[a-z]+://[^/?#]*:[0-9]+-")
_NEXT_WEBHOOK = re.compile(r",\s*(?=\w+=https?:)")

_SSLMODES = frozenset({"disable", "allow", "prefer", "require", "no-verify", "verify-ca", "verify-full"})
_VALUES = {
    "channel_binding": ("prefer", "require", "disable"),
    "sslaccept": ("strict", "accept_invalid_certs"),
    "ssl": ("true", "false", *sorted(_SSLMODES)),
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
        "servicefile",
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
        "single_use_connections",
        "supa",
        "uselibpqcompat",
    ]
)
"""Parameters of other clients for themselves: the gateway has its own pools and timeouts."""
_UNUSED = re.compile(rf"(&?({'|'.join(sorted(_CLIENT_PARAMETERS, key=len, reverse=True))})=[^?#@&]*)+")
_TRANSLATED_PARAMETERS = frozenset({"channel_binding", "schema", "ssl", "sslaccept"})
_REFUSED_PARAMETERS = frozenset(
    [
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "hostaddr",
        "load_balance_hosts",
        "max_protocol_version",
        "min_protocol_version",
        "oauth_client_id",
        "oauth_issuer",
        "replication",
        "require_auth",
        "requirepeer",
        "requiressl",
        "sslcertmode",
        "sslcompression",
        "sslcrldir",
        "sslidentity",
        "sslsni",
    ]
)
"""Parameters of libpq and Prisma that the driver does not have."""
_SCHEMES = re.compile(
    r"(postgresql|postgres)(\+(asyncpg|psycopg|psycopg2|psycopg2cffi|psycopg_async|pg8000))?", re.ASCII
)
_REFUSED_SCHEMES = {
    "prisma": "Prisma's own service is no Postgres",
    "prisma+postgres": "Prisma's own service is no Postgres",
    "redis+sentinel": "Sentinel is not supported",
    "redis-sentinel": "Sentinel is not supported",
    "rediss+sentinel": "Sentinel is not supported",
    "redis+cluster": "name one node of the cluster, as redis://",
    "redis-cluster": "name one node of the cluster, as redis://",
}
_REDIS_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+ssl": "rediss",
    "unix": "unix",
    "redis+socket": "unix",
}
_PLAIN_HOST = re.compile(r"[\w.-]+:[0-9]{1,5}", re.ASCII)
_AZURE_CLIENT_OPTIONS = frozenset(
    {"abortconnect", "allowadmin", "connectretry", "connecttimeout", "synctimeout", "asynctimeout"}
)
_REDIS_PARAMETERS = frozenset(
    [
        "db",
        "username",
        "password",
        "protocol",
        "client_name",
        "encoding",
        "decode_responses",
        "max_connections",
        "timeout",
        "health_check_interval",
        "retry_on_timeout",
        "socket_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "ssl_cert_reqs",
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_check_hostname",
        "ssl",
        "tls",
        "family",
    ]
)

LocationCheck = Callable[[str], None]


class InvalidURL(ValueError):  # noqa: N818 -- errors are named for the state they report
    """The address cannot be used; the message says why, and holds no part of the address."""


def parse_postgres_url(text: str) -> str:
    """Returns the normalized address of a Postgres database; raises `InvalidURL`."""
    form = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    whole = text.strip()
    match = _SCHEMES.fullmatch(whole.partition("://")[0].lower())
    scheme = match[1] if match else "postgresql"
    known = (match[0],) if match else ("postgresql", "postgres")
    _, _, rest = _split_scheme(whole, known, form)
    return f"{scheme}://{_translate_postgres(_encode_credentials(rest, _check_postgres))}"


def unused_parameters(url: str) -> list[str]:
    """Returns a line for each reason why parameters of a normalized Postgres address have no effect."""
    names = [pair.partition("=")[0] for pair in url.partition("#")[2].split("&") if pair]
    lines = [f"DATABASE_URL: without effect, the gateway's own apply: {', '.join(names)}"] if names else []
    if "pgbouncer" in names:
        lines.append(
            "DATABASE_URL: pgbouncer: prepared statements are used, which needs session pooling, or PgBouncer"
            " 1.21 with max_prepared_statements"
        )
    return lines


def parse_redis_url(text: str) -> str:
    """Returns the normalized address of a Redis or Valkey; raises `InvalidURL`."""
    whole = text.strip()
    if "://" not in whole:
        whole = _read_azure(whole)
    _, given, rest = _split_scheme(whole, tuple(_REDIS_SCHEMES), "redis://USER:PASSWORD@HOST:PORT/NUMBER")
    scheme = _REDIS_SCHEMES[given]
    address = _encode_credentials(rest, _check_socket if scheme == "unix" else _check_redis)
    location, _, query = address.partition("?")
    kept = "&".join(pair for pair in query.split("&") if not pair.lower().startswith("family="))
    return f"{scheme}://{location}{f'?{kept}' if kept else ''}"


def parse_http_url(text: str) -> str:
    """Returns the normalized address of an HTTP server; its port may be a range. Raises `InvalidURL`."""
    address, _, rest = _split_scheme(text, ("http", "https"), "http://HOST:PORT")
    location = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest:
        raise InvalidURL("it holds an @: a user or password would never be sent")
    host = _HOST.fullmatch(location)
    if host is None or not host["host"]:
        raise InvalidURL("it names no host")
    if host["port"] is not None:
        _check_port_range(host["port"])
    return address


def parse_webhook_urls(text: str) -> tuple[tuple[WebhookFormat, str], ...]:
    """Returns the webhooks of a list such as `json=https://…,slack=https://…`; raises `InvalidURL`."""
    webhooks: dict[tuple[WebhookFormat, str], None] = {}
    for one in _NEXT_WEBHOOK.split(text):
        form, _, url = one.strip().partition("=")
        if form not in _WEBHOOK_FORMS:
            raise InvalidURL("each webhook is written FORM=URL, and FORM is json, slack or teams")
        if _PORT_RANGE.match(url):
            raise InvalidURL("a webhook has one port")
        webhooks[_WEBHOOK_FORMS[form], parse_http_url(url)] = None
    return tuple(webhooks)


def parse_setting(name: str, text: str, read: Callable[[str], str]) -> str:
    """Parses an address with `read`; raises an `InvalidURL` that begins with the setting's name."""
    try:
        return read(text)
    except InvalidURL as fault:
        raise InvalidURL(f"{name}: {fault}") from None


def _split_scheme(text: str, known: tuple[str, ...], form: str) -> tuple[str, str, str]:
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise InvalidURL(f"it is no address of the form {form}")
    if (why := _REFUSED_SCHEMES.get(scheme.lower())) is not None:
        raise InvalidURL(why)
    if scheme.lower() not in known:
        raise InvalidURL(f"its scheme is none of {', '.join(known)}; write {form}")
    return f"{scheme.lower()}://{rest}", scheme.lower(), rest


def _encode_credentials(rest: str, check: LocationCheck) -> str:
    """Returns the part after the scheme with user and password percent-encoded."""
    readings: list[str] = []
    reason = InvalidURL(_ENCODE)
    for at in (None, *(match.start() for match in re.finditer("@", rest))):
        user, colon, password = (rest[:at] if at is not None else "").partition(":")
        location = rest if at is None else rest[at + 1 :]
        try:
            check(location)
        except InvalidURL as fault:
            reason = fault
            continue
        if _USER.fullmatch(user):
            who = f"{_encode_once(user)}:{_encode_once(password)}@" if colon else f"{_encode_once(user)}@"
            readings.append(location if at is None else f"{who}{location}")
    if not readings:
        raise reason
    if len(readings) > 1:
        raise InvalidURL(f"it can be read in more than one way: {_ENCODE}")
    return readings[0]


def _encode_once(text: str) -> str:
    """Returns the text percent-encoded once; raises `InvalidURL` if it is encoded in part."""
    escapes = len(_ESCAPE.findall(text))
    if escapes and escapes < text.count("%"):
        raise InvalidURL(f"some of its % are escapes and some are not: {_ENCODE}")
    try:
        plain = unquote(text, errors="strict") if escapes else text
    except UnicodeDecodeError:
        raise InvalidURL("its user or password is no UTF-8 once decoded") from None
    if "\0" in plain:
        raise InvalidURL("its user or password holds a NUL")
    try:
        return quote(plain, safe="")
    except UnicodeEncodeError:
        raise InvalidURL("its user or password is no UTF-8") from None


def _check_postgres(location: str) -> None:
    location, mark, unused = location.partition("#")
    if mark and not _UNUSED.fullmatch(unused):
        raise InvalidURL(f"what follows its host is not understood: {_ENCODE}")
    known = _POSTGRES_PARAMETERS | _CLIENT_PARAMETERS | _TRANSLATED_PARAMETERS
    query = _parse_query(match := _match_location(location), known)
    if query.get("sslmode", "prefer") not in _SSLMODES:
        raise InvalidURL(f"its sslmode is none of {', '.join(sorted(_SSLMODES))}")
    for name, values in _VALUES.items():
        if query.get(name, values[0]) not in values:
            raise InvalidURL(f"its {name} is none of {', '.join(values)}")
    if not _SCHEMA.fullmatch(query.get("schema", "public")):
        raise InvalidURL("its schema is no name of letters, digits, _ and -")
    if (port := query.get("port")) is not None:
        _check_port(port)
    if not match["hosts"] and query.get("host"):
        return
    for one in match["hosts"].split(","):
        _check_host(one)


def _translate_postgres(address: str) -> str:
    """Returns a checked address in the driver's words."""
    location, mark, text = address.partition("?")
    if not mark or not text or "#" in text:  # nothing to do, or done before
        return address
    query: dict[str, str] = {}
    for pair in text.split("&"):
        name, _, value = pair.partition("=")
        query[name.lower() if "." not in name else name] = value
    _translate_tls(query)
    schema = unquote(query.pop("schema", "public"))
    if schema != "public":
        query["search_path"] = quote(f'"{schema}"', safe="")
    if "host" in query and not location.startswith("/"):
        location = _drop_host(location, query)
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


def _read_azure(text: str) -> str:
    """Returns the address that `host:port` or `host:port,password=...,ssl=True` stands for."""
    location, *options = text.split(",")
    if not _PLAIN_HOST.fullmatch(location):
        raise InvalidURL("it is no address of the form redis://USER:PASSWORD@HOST:PORT/NUMBER")
    given: dict[str, str] = {}
    for number, option in enumerate(options, 1):
        name, _, value = option.strip().partition("=")
        if name.lower() not in {"password", "user", "ssl", "defaultdatabase", *_AZURE_CLIENT_OPTIONS}:
            raise InvalidURL(f"option {number} after its host is not known")
        given[name.lower()] = value
    tls = given.get("ssl", "false").lower()
    if tls not in {"true", "false"}:
        raise InvalidURL("its ssl is neither True nor False")
    password = quote(given.get("password", ""), safe="")
    who = f"{quote(given.get('user', ''), safe='')}:{password}@" if password else ""
    database = f"/{given['defaultdatabase']}" if given.get("defaultdatabase") else ""
    return f"{'rediss' if tls == 'true' else 'redis'}://{who}{location}{database}"


def _check_redis(location: str) -> None:
    query = _parse_query(match := _match_location(location), _REDIS_PARAMETERS)
    if query.keys() & {"ssl", "tls"}:
        raise InvalidURL("its parameter ssl or tls is not supported: write rediss:// for TLS")
    if query.get("family", "0") not in {"0", "4", "6"}:
        raise InvalidURL("its family is none of 0, 4, 6")
    if "," in match["hosts"]:
        raise InvalidURL("it names several hosts: name one node of the cluster")
    _check_host(match["hosts"])
    for number in (match["path"], query.get("db")):
        if number and not (number.isascii() and number.isdecimal() and len(number) < 6):
            raise InvalidURL("its database is no number")


def _check_socket(location: str) -> None:
    match = _SOCKET.fullmatch(location)
    if match is None:
        raise InvalidURL("it names no path of a socket")
    _parse_query(match, _REDIS_PARAMETERS)


def _match_location(location: str) -> "re.Match[str]":
    match = _LOCATION.fullmatch(location)
    if match is None:
        raise InvalidURL(f"what follows its host is not understood: {_ENCODE}")
    return match


def _check_host(text: str) -> None:
    match = _HOST.fullmatch(text)
    if match is None:
        raise InvalidURL(f"its host is no name and no address: {_ENCODE}")
    if not match["host"]:
        raise InvalidURL("it names no host")
    if match["port"] is not None:
        _check_port(match["port"])


def _check_port(text: str) -> None:
    if not _PORT.fullmatch(text) or int(text) > _MAX_PORT:
        raise InvalidURL(f"its port is no number from 1 to {_MAX_PORT}")


def _check_port_range(text: str) -> None:
    match = _PORTS.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= _MAX_PORT or last - first >= _MAX_PORTS:
        raise InvalidURL(
            f"its port is no number from 1 to {_MAX_PORT}, nor a range of at most {_MAX_PORTS} of them"
        )


def _parse_query(match: "re.Match[str]", known: frozenset[str]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for number, pair in enumerate((match["query"] or "").split("&"), 1):
        name, equals, value = pair.partition("=")
        if not pair and match["query"] in {None, ""}:
            break
        if not equals or not value:
            raise InvalidURL(f"parameter {number} after its ? has no value: {_ENCODE}")
        if name.lower() in _REFUSED_PARAMETERS:
            raise InvalidURL(f"its parameter {name.lower()} is not supported")
        if name.lower() not in known and "." not in name:
            raise InvalidURL(f"parameter {number} after its ? is not known")
        parameters[name.lower()] = unquote(value)
    return parameters
