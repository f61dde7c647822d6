"""Parses addresses of Redis and Valkey: a server, a list of hosts, a cluster, a service behind Sentinels.

Pure; invariants as in `service_urls`. A normalized address of a service behind Sentinels is
`redis+sentinel://DATA-USER:PASSWORD@SENTINEL,SENTINEL/SERVICE?db=0&sentinel_password=...`; `rediss` means TLS
to all of them. Sources: https://valkey.io/topics/sentinel-clients/, LiteLLM's `_redis.py`.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

from llm_proxy.service_urls import (
    ENCODE_HINT,
    InvalidURL,
    check_host,
    encode_credentials,
    match_location,
    parse_query,
    split_scheme,
    without_quotes,
)

_FORM = "redis://USER:PASSWORD@HOST:PORT/NUMBER"
_SOCKET = re.compile(r"(?P<path>/[^?#]*)(?:\?(?P<query>[^?#]*))?")
_REDIS_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+ssl": "rediss",
    "unix": "unix",
    "redis+socket": "unix",
    "redis+cluster": "redis+cluster",
    "redis-cluster": "redis+cluster",
    "rediss+cluster": "rediss+cluster",
    "rediss-cluster": "rediss+cluster",
    "valkey+cluster": "redis+cluster",
    "valkeys+cluster": "rediss+cluster",
    "redis+sentinel": "redis+sentinel",
    "redis-sentinel": "redis+sentinel",
    "sentinel": "redis+sentinel",
    "rediss+sentinel": "rediss+sentinel",
    "rediss-sentinel": "rediss+sentinel",
    "valkey+sentinel": "redis+sentinel",
    "valkeys+sentinel": "rediss+sentinel",
}
_SERVICE_PARAMETERS = ("service_name", "sentinelmasterid", "master_name", "mastername", "master", "service")
"""The service's name as other clients have it: redis-py, Lettuce, go-redis, Jedis."""
_SENTINEL_PARAMETERS = frozenset({"sentinel_username", "sentinel_password", *_SERVICE_PARAMETERS})
_SERVICE = re.compile(r"[\w.-]+", re.ASCII)
_TLS_PARAMETERS = frozenset({"ssl", "tls"})
_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})
DEFAULT_PORT, DEFAULT_SENTINEL_PORT = 6379, 26379
_PLAIN_HOST = re.compile(r"[\w.-]+:[0-9]{1,5}", re.ASCII)
_AZURE_CLIENT_OPTIONS = frozenset(
    {
        *("abortconnect", "allowadmin", "connectretry", "connecttimeout", "synctimeout", "asynctimeout"),
        *("sslprotocols", "name", "keepalive", "tiebreaker", "responsetimeout"),
    }
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


_CLIENT_PARAMETERS = frozenset({"family", "protocol", "encoding", "decode_responses", "timeout"})
"""Parameters of redis-py for programs that use it themselves; with them LiteLLM's cache would not work."""
_WHOLE, _SECONDS = re.compile(r"[0-9]{1,9}"), re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_NUMBERS = {
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "max_connections": _WHOLE,
    "health_check_interval": _WHOLE,
}
_CERT_REQS = frozenset({"none", "optional", "required"})


RedisKind = Literal["server", "cluster", "sentinel"]


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """What a normalized address names.

    Attributes:
        kind: `server` also for a list of hosts that does not say what it is.
        hosts: Hosts and ports of servers, or of Sentinels; none for a socket.
        service: The service's name at the Sentinels.
    """

    kind: RedisKind
    hosts: tuple[tuple[str, int], ...]
    service: str
    _url: str

    @property
    def is_tls(self) -> bool:
        """Whether the connections are encrypted."""
        return self._url.startswith("rediss")

    @property
    def credentials(self) -> tuple[str, str]:
        """User and password, decoded, before the host or as parameters; empty where there is none."""
        who, at, _ = self._url.partition("://")[2].partition("/")[0].rpartition("@")
        user, _, password = who.partition(":") if at else ("", "", "")
        given = self.parameters
        return unquote(user) or given.get("username", ""), unquote(password) or given.get("password", "")

    @property
    def socket_path(self) -> str:
        """The path of the socket; empty for a server that is reached by host and port."""
        location = self._url.partition("://")[2].partition("?")[0]
        return "" if self.hosts else unquote(f"/{location.partition('/')[2]}")

    @property
    def database(self) -> int:
        """The number of a server's database."""
        path = self._url.partition("://")[2].partition("?")[0].partition("/")[2] if self.hosts else ""
        number = self.parameters.get("db") or path
        return int(number) if number.isdecimal() else 0

    @property
    def servers(self) -> tuple[str, ...]:
        """The addresses of single servers; none where Sentinels name it."""
        if not self.hosts:
            return (self._url,)
        return () if self.kind == "sentinel" else tuple(self.server_at(*one) for one in self.hosts)

    @property
    def sentinels(self) -> tuple[str, ...]:
        """The addresses of the Sentinels, with their own user and password."""
        query = self.parameters
        user, password = (
            quote(query.get(f"sentinel_{name}", ""), safe="") for name in ("username", "password")
        )
        who = f"{user}:{password}@" if password else ""
        kept = {name: value for name, value in query.items() if name.startswith("ssl_")}
        return tuple(self._single(who, *one, "", kept) for one in self.hosts)

    def server_at(self, host: str, port: int) -> str:
        """Returns the address of one server, with this one's user, password and parameters."""
        location, _, _ = self._url.partition("://")[2].partition("?")
        before, _, path = location.partition("/")
        who, at, _ = before.rpartition("@")
        query = {name: value for name, value in self.parameters.items() if name not in _SENTINEL_PARAMETERS}
        return self._single(f"{who}{at}", host, port, "" if self.kind == "sentinel" else path, query)

    @property
    def parameters(self) -> dict[str, str]:
        """The decoded parameters."""
        pairs = (pair.partition("=") for pair in self._url.partition("?")[2].split("&") if pair)
        return {name: unquote(value) for name, _, value in pairs}

    def _single(self, who: str, host: str, port: int, path: str, query: dict[str, str]) -> str:
        where = f"[{host}]" if ":" in host else host
        joined = "&".join(f"{name}={quote(value, safe='/:')}" for name, value in query.items())
        scheme, database = "rediss" if self.is_tls else "redis", f"/{path}" if path else ""
        return f"{scheme}://{who}{where}:{port}{database}{f'?{joined}' if joined else ''}"


def redis_address(url: str) -> RedisAddress:
    """Returns what a normalized address names."""
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        return RedisAddress("server", (), "", url)
    location = rest.partition("?")[0]
    hosts, _, path = location.rpartition("@")[2].partition("/")
    kind: RedisKind = "server"
    if "+" in scheme:
        kind = "sentinel" if scheme.endswith("sentinel") else "cluster"
    default = DEFAULT_SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT
    found = tuple(_host_and_port(one, default) for one in hosts.split(","))
    return RedisAddress(kind, found, path if kind == "sentinel" else "", url)


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    return host.strip("[]"), int(port or default)


def parse_redis_url(text: str) -> str:
    """Returns the normalized address of a Redis or Valkey; raises `InvalidURL`."""
    whole = without_quotes(text)
    if "://" not in whole:
        whole = _read_azure(whole)
    _, given, rest = split_scheme(whole, tuple(_REDIS_SCHEMES), _FORM)
    scheme = _REDIS_SCHEMES[given]
    if scheme.endswith("+sentinel"):
        return _normalize_sentinel(scheme, rest)
    address = encode_credentials(rest, _check_socket if scheme == "unix" else _check_redis)
    return _normalize(scheme, *address.partition("?")[::2])


def _normalize(scheme: str, location: str, query: str) -> str:
    """Returns the address without the parameters that say what the scheme says, or nothing."""
    kept: list[str] = []
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name.lower() in _TLS_PARAMETERS:
            is_tls = value.lower() in _TRUE
            scheme = (
                scheme.replace("redis", "rediss", 1) if is_tls and not scheme.startswith("rediss") else scheme
            )
        elif name.lower() == "ssl_cert_reqs":
            kept.append(f"ssl_cert_reqs={_cert_reqs(value)}")
        elif name.lower() not in _CLIENT_PARAMETERS:
            kept.append(pair)
    return f"{scheme}://{location}{'?' if kept else ''}{'&'.join(kept)}"


def _normalize_sentinel(scheme: str, rest: str) -> str:
    """Returns the address with the service's name as its path and the database as the parameter `db`."""
    before, mark, last = rest.rpartition("#")  # Lettuce's place for the name
    fragment = last if mark and _SERVICE.fullmatch(last) else ""
    rest = before if fragment else rest
    address = encode_credentials(rest, _check_sentinel)
    location, _, query = address.partition("?")
    before, _, path = location.partition("/")
    first, _, second = path.partition("/")
    given = {
        name.lower(): value for name, _, value in (pair.partition("=") for pair in query.split("&") if pair)
    }
    named = next((given.pop(name) for name in _SERVICE_PARAMETERS if name in given), fragment)
    for name in _SERVICE_PARAMETERS:
        given.pop(name, None)
    service = named or ("" if first.isdecimal() else first)
    if not service:
        raise InvalidURL("it names no service: write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE")
    number = second or (first if first.isdecimal() else "")
    if number:
        given.setdefault("db", number)
    joined = "&".join(f"{name}={value}" for name, value in given.items())
    return _normalize(scheme, f"{before}/{service}", joined)


def _read_azure(text: str) -> str:
    """Returns the address that `host:port` or `host:port,password=...,ssl=True` stands for."""
    parts = [part.strip() for part in text.split(",")]
    location = ",".join(itertools.takewhile(_PLAIN_HOST.fullmatch, parts))
    options = parts[location.count(",") + 1 :]
    if not location:
        raise InvalidURL("it is no address of the form redis://USER:PASSWORD@HOST:PORT/NUMBER")
    given: dict[str, str] = {}
    for number, option in enumerate(options, 1):
        name, _, value = option.partition("=")
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
    _check_parameters(query)
    for one in match["hosts"].split(","):
        check_host(one)
    for number in (match["path"], query.get("db")):
        _check_number(number)


def _check_sentinel(location: str) -> None:
    before, slash, after = location.partition("/")
    path, mark, text = after.partition("?")
    first, second_slash, second = path.partition("/")
    plain = f"{before}{slash}{first}{mark}{text}" if second_slash else location
    query = parse_query(match := match_location(plain), _REDIS_PARAMETERS | _SENTINEL_PARAMETERS)
    _check_parameters(query)
    for one in match["hosts"].split(","):
        check_host(one)
    named = next((query[name] for name in _SERVICE_PARAMETERS if name in query), first or "0")
    if not _SERVICE.fullmatch(named):
        raise InvalidURL(f"its service is no name of letters, digits, ., _ and -; else {ENCODE_HINT}")
    for number in (second, query.get("db")):
        _check_number(number)


def _check_parameters(query: dict[str, str]) -> None:
    for name in _TLS_PARAMETERS & query.keys():
        if query[name].lower() not in _TRUE | _FALSE:
            raise InvalidURL(f"its {name} is neither true nor false")
    if query.get("family", "0") not in {"0", "4", "6"}:
        raise InvalidURL("its family is none of 0, 4, 6")
    if _cert_reqs(query.get("ssl_cert_reqs", "none")) not in _CERT_REQS:
        raise InvalidURL(f"its ssl_cert_reqs is none of {', '.join(sorted(_CERT_REQS))}")
    for name, pattern in _NUMBERS.items():
        if not pattern.fullmatch(query.get(name, "0")):
            raise InvalidURL(f"its {name} is no number")


def _cert_reqs(text: str) -> str:
    """Returns redis-py's word for it; other clients write the constant's name, as in `CERT_NONE`."""
    return text.lower().removeprefix("cert_")


def _check_number(number: str | None) -> None:
    if number and not (number.isascii() and number.isdecimal() and len(number) < 6):
        raise InvalidURL("its database is no number")


def _check_socket(location: str) -> None:
    match = _SOCKET.fullmatch(location)
    if match is None:
        raise InvalidURL("it names no path of a socket")
    _check_parameters(parse_query(match, _REDIS_PARAMETERS))
