"""What addresses in settings have in common; parses those of sidecars and webhooks.

Pure. Invariants: in a returned address user and password are percent-encoded. An address is accepted if it
can be read in one way only. An error holds no part of it. Source: RFC 3986.
"""

import re
from collections.abc import Callable
from typing import Literal
from urllib.parse import quote, unquote

ENCODE_HINT = "percent-encode /, #, ?, @, : and % in its user and password"
_USER = re.compile(r"[^/?#:\[\]]*")
_LOCATION = re.compile(r"(?P<hosts>[^/?#]*)(?:/(?P<path>[^/?#]*))?(?:\?(?P<query>[^?#]*))?")
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
_REFUSED_PARAMETERS = frozenset(
    [
        "fallback_application_name",
        "gssdelegation",
        "hostaddr",
        "oauth_client_id",
        "oauth_issuer",
        "replication",
        "servicefile",
        "require_auth",
        "requirepeer",
        "sslcertmode",
        "sslcrldir",
        "sslidentity",
        "sslsni",
    ]
)
"""Parameters of libpq and Prisma that the driver does not have."""
_REFUSED_SCHEMES = {
    "prisma": "Prisma's own service is no Postgres",
    "prisma+postgres": "Prisma's own service is no Postgres",
}
LocationCheck = Callable[[str], None]


class InvalidURL(ValueError):  # noqa: N818 -- errors are named for the state they report
    """The address cannot be used; the message says why, and holds no part of the address."""


def parse_http_url(text: str) -> str:
    """Returns the normalized address of an HTTP server; its port may be a range. Raises `InvalidURL`."""
    address, _, rest = split_scheme(text, ("http", "https"), "http://HOST:PORT")
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


def without_quotes(text: str) -> str:
    """Returns the text without the quotes around it that some readers of `.env` files leave there."""
    whole = text.strip()
    return whole[1:-1].strip() if whole[:1] in {'"', "'"} and whole[:1] == whole[-1:] else whole


def split_scheme(text: str, known: tuple[str, ...], form: str) -> tuple[str, str, str]:
    """Returns address, scheme and the rest of an address of a known scheme; raises `InvalidURL`."""
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise InvalidURL(f"it is no address of the form {form}")
    if (why := _REFUSED_SCHEMES.get(scheme.lower())) is not None:
        raise InvalidURL(why)
    if scheme.lower() not in known:
        raise InvalidURL(f"its scheme is none of {', '.join(known)}; write {form}")
    return f"{scheme.lower()}://{rest}", scheme.lower(), rest


def encode_credentials(rest: str, check: LocationCheck) -> str:
    """Returns the part after the scheme with user and password percent-encoded."""
    readings: list[str] = []
    reason = InvalidURL(ENCODE_HINT)
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
        raise InvalidURL(f"it can be read in more than one way: {ENCODE_HINT}")
    return readings[0]


def _encode_once(text: str) -> str:
    """Returns the text percent-encoded once; raises `InvalidURL` if it is encoded in part."""
    escapes = len(_ESCAPE.findall(text))
    if escapes and escapes < text.count("%"):
        raise InvalidURL(f"some of its % are escapes and some are not: {ENCODE_HINT}")
    try:
        plain = unquote(text, errors="strict") if escapes else text
    except UnicodeDecodeError:
        raise InvalidURL("its user or password is not UTF-8 once decoded") from None
    if "\0" in plain:
        raise InvalidURL("its user or password holds a NUL")
    try:
        return quote(plain, safe="")
    except UnicodeEncodeError:
        raise InvalidURL("its user or password is not UTF-8") from None


def match_location(location: str) -> "re.Match[str]":
    """Returns the parts `hosts`, `path` and `query`; raises `InvalidURL`."""
    match = _LOCATION.fullmatch(location)
    if match is None:
        raise InvalidURL(f"what follows its host is not understood: {ENCODE_HINT}")
    return match


def check_host(text: str) -> None:
    """Raises `InvalidURL` for what is no host with or without a port."""
    match = _HOST.fullmatch(text)
    if "[" not in text and text.count(":") > 1:
        raise InvalidURL(f"an IPv6 address stands in [ ]; else {ENCODE_HINT}")
    if match is None:
        raise InvalidURL(f"its host is no name and no address: {ENCODE_HINT}")
    if not match["host"]:
        raise InvalidURL("it names no host")
    if match["port"] is not None:
        check_port(match["port"])


def check_port(text: str) -> None:
    """Raises `InvalidURL` for what is no port."""
    if not _PORT.fullmatch(text) or int(text) > _MAX_PORT:
        raise InvalidURL(f"its port is no number from 1 to {_MAX_PORT}")


def _check_port_range(text: str) -> None:
    match = _PORTS.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= _MAX_PORT or last - first >= _MAX_PORTS:
        raise InvalidURL(
            f"its port is no number from 1 to {_MAX_PORT}, nor a range of at most {_MAX_PORTS} of them"
        )


def parse_query(match: "re.Match[str]", known: frozenset[str]) -> dict[str, str]:
    """Returns the decoded parameters by name in lower case; raises `InvalidURL` for others than the known."""
    parameters: dict[str, str] = {}
    for number, pair in enumerate((match["query"] or "").split("&"), 1):
        name, equals, value = pair.partition("=")
        if not pair:
            continue
        if not equals or not value:
            raise InvalidURL(f"parameter {number} after its ? has no value: {ENCODE_HINT}")
        if name.lower() in _REFUSED_PARAMETERS:
            raise InvalidURL(f"its parameter {name.lower()} is not supported")
        if name.lower() not in known and "." not in name:
            raise InvalidURL(f"parameter {number} after its ? is not known")
        parameters[name.lower()] = unquote(value)
    return parameters
