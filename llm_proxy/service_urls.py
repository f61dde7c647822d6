"""Parses the addresses in settings: Postgres, Redis, sidecars, webhooks.

Pure. Invariants: user and password are percent-encoded in every returned address, so that all later readers
agree. A password that is not percent-encoded is accepted if the address can be read in one way only. An error
holds no part of the address.
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

_SSLMODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
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
    ]
)

LocationCheck = Callable[[str], None]


class InvalidURL(ValueError):  # noqa: N818 -- errors are named for the state they report
    """The address cannot be used; the message says why, and holds no part of the address."""


def parse_postgres_url(text: str) -> str:
    """Returns the normalized address of a Postgres database; raises `InvalidURL`."""
    _, scheme, rest = _split_scheme(
        text, ("postgresql", "postgres"), "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    )
    return f"{scheme}://{_encode_credentials(rest, _check_postgres)}"


def parse_redis_url(text: str) -> str:
    """Returns the normalized address of a Redis or Valkey; raises `InvalidURL`."""
    _, scheme, rest = _split_scheme(
        text, ("redis", "rediss", "unix"), "redis://USER:PASSWORD@HOST:PORT/NUMBER"
    )
    return f"{scheme}://{_encode_credentials(rest, _check_socket if scheme == 'unix' else _check_redis)}"


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
    query = _parse_query(match := _match_location(location), _POSTGRES_PARAMETERS)
    if query.get("sslmode", "prefer") not in _SSLMODES:
        raise InvalidURL(f"its sslmode is none of {', '.join(sorted(_SSLMODES))}")
    if (port := query.get("port")) is not None:
        _check_port(port)
    if not match["hosts"] and query.get("host"):
        return
    for one in match["hosts"].split(","):
        _check_host(one)


def _check_redis(location: str) -> None:
    query = _parse_query(match := _match_location(location), _REDIS_PARAMETERS)
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
        if name.lower() not in known and "." not in name:
            raise InvalidURL(f"parameter {number} after its ? is not known")
        parameters[name.lower()] = unquote(value)
    return parameters
