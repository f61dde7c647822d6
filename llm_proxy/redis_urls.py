"""Parses addresses of Redis and Valkey. Pure; invariants as in `service_urls`."""

import re
from urllib.parse import quote

from llm_proxy.service_urls import (
    InvalidURL,
    check_host,
    encode_credentials,
    match_location,
    parse_query,
    split_scheme,
    without_quotes,
)

_SOCKET = re.compile(r"(?P<path>/[^?#]*)(?:\?(?P<query>[^?#]*))?")
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


def parse_redis_url(text: str) -> str:
    """Returns the normalized address of a Redis or Valkey; raises `InvalidURL`."""
    whole = without_quotes(text)
    if "://" not in whole:
        whole = _read_azure(whole)
    _, given, rest = split_scheme(whole, tuple(_REDIS_SCHEMES), "redis://USER:PASSWORD@HOST:PORT/NUMBER")
    scheme = _REDIS_SCHEMES[given]
    address = encode_credentials(rest, _check_socket if scheme == "unix" else _check_redis)
    location, _, query = address.partition("?")
    kept = "&".join(pair for pair in query.split("&") if not pair.lower().startswith("family="))
    return f"{scheme}://{location}{f'?{kept}' if kept else ''}"


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
    query = parse_query(match := match_location(location), _REDIS_PARAMETERS)
    if query.keys() & {"ssl", "tls"}:
        raise InvalidURL("its parameter ssl or tls is not supported: write rediss:// for TLS")
    if query.get("family", "0") not in {"0", "4", "6"}:
        raise InvalidURL("its family is none of 0, 4, 6")
    if "," in match["hosts"]:
        raise InvalidURL("it names several hosts: name one node of the cluster")
    check_host(match["hosts"])
    for number in (match["path"], query.get("db")):
        if number and not (number.isascii() and number.isdecimal() and len(number) < 6):
            raise InvalidURL("its database is no number")


def _check_socket(location: str) -> None:
    match = _SOCKET.fullmatch(location)
    if match is None:
        raise InvalidURL("it names no path of a socket")
    parse_query(match, _REDIS_PARAMETERS)
