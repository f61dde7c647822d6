"""What answers over HTTP: the gateway, the public address, the sidecars; with a key, a wrong one and none.

Invariants: only `GET` of routes that read, never a model and never LiteLLM's `/health`, which calls every
one; redirects are not followed; no key is sent to another address than its own.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from llm_proxy.certificates import not_after
from llm_proxy.cli.doctor.findings import DoctorFinding, NotChecked, Outcome, finding
from llm_proxy.cli.doctor.releases import judge_release
from llm_proxy.cli.doctor.store_rules import is_public_host, is_this_machine, judge_clock
from llm_proxy.cli.doctor.subject import Subject
from llm_proxy.json_access import Json, as_list, as_object, read_object
from llm_proxy.upstream.monitor import addresses_of_name

REQUEST_TIMEOUT_S, SIDECAR_TIMEOUT_S = 3.0, 6.0
WRONG_KEY = "sk-llm-proxy-doctor-wrong-key"
GUARDED = ("/admin/keys", "/metrics", "/v1/requests", "/openapi.json")
"""Routes of the gateway that need a key."""
_HIDDEN = ("/admin/keys", "/metrics", "/internal/llm/models")
"""Routes of the gateway, one of each path that a proxy in front hides."""
SIDECAR_ROUTES = ("/ui/", "/mcp", "/docs", "/redoc", "/key/list", "/config/list", "/get/config/callbacks")
"""Routes of LiteLLM that this project's sidecar has not."""
LITELLM_ROUTES = (*SIDECAR_ROUTES, "/llmp/catalog")
"""Routes of LiteLLM or of a sidecar that the gateway has not."""
_NO_SUCH_PATH = "/llm-proxy-doctor-no-such-path"
_CLOCK_STEP_S = 1.0
"""The resolution of an HTTP date."""
_MAX_SIDECARS = 64
_UNKNOWN_ISSUER = frozenset({18, 19, 20, 21})
"""OpenSSL's codes of a certificate that no trusted authority signed (X509_V_ERR_…)."""
_NOT_THERE = frozenset({0, 401, 403, 404})
"""Statuses of a route that is not served; any other, a fault of the route too, says that it is."""


@dataclass(frozen=True, slots=True)
class SidecarFacts:
    """What one sidecar answers.

    Attributes:
        where: Its address without a path.
        status: Of its readiness; 0: it does not answer.
        open_with: How it served its models: `no key`, `a wrong key`; empty: it did not.
        accepts_key: Whether it serves its models for the gateway's key.
        served_routes: The routes of LiteLLM's own that it serves.
        release: LiteLLM's version; None: it does not say.
        clock_offset_s: To a second; None: it does not say.
        config: What it says of its configuration file; None: it is another LiteLLM.
    """

    where: str
    status: int
    fault: str = ""
    open_with: tuple[str, ...] = ()
    accepts_key: bool = True
    served_routes: tuple[str, ...] = ()
    release: str | None = None
    clock_offset_s: float | None = None
    config: Json | None = None


@contextlib.asynccontextmanager
async def _client(subject: Subject) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        verify=subject.settings.tls, timeout=REQUEST_TIMEOUT_S, trust_env=False, follow_redirects=False
    ) as client:
        yield client


async def _status(client: httpx.AsyncClient, url: str, key: str | None = None) -> int:
    """Returns the status; 0 without an answer. What follows the head is not read: it may never end."""
    try:
        async with client.stream("GET", url, headers=_bearer(key)) as response:
            return response.status_code
    except httpx.HTTPError:
        return 0


def _bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


async def check_gateway(subject: Subject) -> Outcome:
    """Whether calls are served, and whether its routes for operators need a key."""
    async with _client(subject) as client:
        try:
            response = await client.get(f"{subject.gateway_url}/health/ready")
            health = read_object(response.content) or {}
        except httpx.HTTPError as fault:
            return [finding("gateway-away", f"{place_of(subject.gateway_url)}: {_reason(fault)}")]
        found: Outcome = [*_judge_health(response.status_code, health)]
        found += await _open_routes(client, subject.gateway_url)
        if subject.public_url is None:
            found.append(NotChecked("the public address", "name it with --public-url"))
        else:
            found += await _public_routes(client, subject.public_url)
    return found


def _judge_health(status: int, health: Json) -> Iterator[DoctorFinding]:
    parts = "; ".join(
        f"{one.get('part')}: {one.get('detail') or one.get('state')}"
        for one in map(as_object, as_list(health.get("parts")))
    )
    if status != 200:
        yield finding("gateway-down", parts or f"/health/ready answers {status}")
    elif health.get("status") == "degraded":
        yield finding("gateway-degraded", parts)
    elif health.get("status") != "ready":
        yield finding("gateway-away", "what answers at its address is not a gateway")


async def _open_routes(client: httpx.AsyncClient, url: str) -> Outcome:
    """Routes that answer without a key, or with a wrong one."""
    if await _status(client, url + _NO_SUCH_PATH) == 200:
        return [
            NotChecked(f"open routes of {place_of(url)}", "it answers 200 to every path", is_unknown=True)
        ]
    tries = [(path, None) for path in (*GUARDED, *LITELLM_ROUTES)] + [
        (path, WRONG_KEY) for path in GUARDED[:2]
    ]
    statuses = await asyncio.gather(*(_status(client, url + path, key) for path, key in tries))
    found: Outcome = []
    for (path, key), status in zip(tries, statuses, strict=True):
        if 200 <= status < 300:
            code = "admin-open" if path in GUARDED else "sidecar-through-gateway"
            how = "with a wrong key" if key else "without a key"
            found.append(finding(code, f"{place_of(url)}{path} answers {status} {how}"))
    return found


async def _public_routes(client: httpx.AsyncClient, url: str) -> Outcome:
    try:
        await client.get(f"{url}/health/live")
    except httpx.HTTPError as fault:
        return [NotChecked("the public address", f"{place_of(url)}: {_reason(fault)}", is_unknown=True)]
    found = await _open_routes(client, url)
    passed = [path for path in _HIDDEN if await _status(client, url + path) in {401, 403}]
    return (
        [*found, finding("admin-public", f"{place_of(url)}: {', '.join(passed)} reach the gateway")]
        if passed
        else found
    )


async def check_sidecars(subject: Subject) -> Outcome:
    """What each sidecar answers with the key, a wrong one and none, and where it listens."""
    if subject.settings.llm_mode == "mock":
        return [NotChecked("sidecars", "mock mode has none")]
    addresses = [one for url in subject.sidecar_urls() for one in await _addresses(url)]
    if not addresses:
        return [finding("sidecar-away", "LLM_PROXY__LITELLM_PROXY_URL names no sidecar")]
    async with _client(subject) as client:
        every = await asyncio.gather(
            *(_examine(client, *one, subject.sidecar_key) for one in addresses[:_MAX_SIDECARS])
        )
    found: Outcome = [one for facts in every for one in judge_sidecar(facts, subject)]
    found += _exposed([url for url, _ in addresses])
    for url, _ in addresses:
        if url.startswith("http:") and is_public_host(urlsplit(url).hostname or ""):
            found.append(finding("sidecar-not-tls", f"{place_of(url)} is reached without TLS"))
    return found


async def _addresses(url: str) -> list[tuple[str, str | None]]:
    parts = urlsplit(url)
    if parts.scheme != "http" or is_this_machine(url):
        return [(url, None)]
    return await addresses_of_name(url, parts.hostname or "", parts.port or 80) or [(url, None)]


async def _examine(client: httpx.AsyncClient, url: str, host: str | None, key: str) -> SidecarFacts:
    """Returns what a sidecar answers; a slow sidecar does not delay the facts of the others."""
    try:
        async with asyncio.timeout(SIDECAR_TIMEOUT_S):
            return await _read_sidecar(client, url, host, key)
    except TimeoutError:
        return SidecarFacts(place_of(url), 0, "it answers too slowly")


async def _read_sidecar(client: httpx.AsyncClient, url: str, host: str | None, key: str) -> SidecarFacts:
    more = {"Host": host} if host is not None else {}
    try:
        ready = await client.get(f"{url}/health/readiness", headers=more)
    except httpx.HTTPError as fault:
        return SidecarFacts(place_of(url), 0, _reason(fault))
    offset_s = clock_offset_s(ready.headers, time.time())
    with_key, config, details = await asyncio.gather(
        _status(client, f"{url}/v1/models", key),
        _read(client, f"{url}/llmp/config", key),
        _read(client, f"{url}/health/readiness/details", key),
    )
    without = {"no key": None, "a wrong key": WRONG_KEY}
    opened = await asyncio.gather(*(_status(client, f"{url}/v1/models", one) for one in without.values()))
    # One after the other: LiteLLM's own application is slow at them, and a late answer would count as none.
    routes = [path for path in SIDECAR_ROUTES if await _status(client, url + path, key) not in _NOT_THERE]
    release = (config or {}).get("litellm") or (details or {}).get("litellm_version")
    return SidecarFacts(
        where=place_of(url),
        status=ready.status_code,
        open_with=tuple(name for name, status in zip(without, opened, strict=True) if status == 200),
        accepts_key=with_key not in {401, 403},
        served_routes=tuple(routes),
        release=str(release) if release else None,
        clock_offset_s=offset_s,
        config=config,
    )


async def _read(client: httpx.AsyncClient, url: str, key: str) -> Json | None:
    try:
        response = await client.get(url, headers=_bearer(key))
    except httpx.HTTPError:
        return None
    return read_object(response.content) if response.status_code == 200 else None


def judge_sidecar(facts: SidecarFacts, subject: Subject) -> Outcome:
    """Returns what is wrong with one sidecar."""
    where = f"the sidecar at {facts.where}"
    if facts.status == 0:
        return [finding("sidecar-away", f"{where}: {facts.fault}")]
    found: Outcome = []
    if facts.status != 200:
        found.append(finding("sidecar-starting", f"{where}: its readiness answers {facts.status}"))
    if facts.open_with:
        found.append(
            finding("sidecar-open", f"{where} lists its models with {' and '.join(facts.open_with)}")
        )
    if not facts.accepts_key:
        found.append(finding("sidecar-key-rejected", f"{where} answers 401"))
    if facts.served_routes:
        found.append(finding("sidecar-admin-reachable", f"{where} serves {', '.join(facts.served_routes)}"))
    if facts.release is None:
        found.append(NotChecked(f"LiteLLM's version at {facts.where}", "it does not say", is_unknown=True))
    else:
        found += judge_release("litellm", facts.release, where, subject.today)
    found += judge_clock(facts.clock_offset_s, where)
    return [*found, *judge_reported_config(facts, with_findings=not subject.config.is_file())]


def judge_reported_config(facts: SidecarFacts, *, with_findings: bool) -> Outcome:
    """Returns what a sidecar says of its configuration file; its findings only where the file is not here."""
    if facts.config is None:
        return []
    file = str(facts.config.get("file") or "litellm-config.yaml")
    found: Outcome = []
    if facts.config.get("changed"):
        what = f"the sidecar at {facts.where} has not loaded {file} as it is now"
        found.append(finding("config-not-loaded", what))
    for one in map(as_object, as_list(facts.config.get("findings")) if with_findings else []):
        if one.get("fault"):
            code = "config-prevents-start" if one.get("prevents_start") else "config-fault"
            found.append(finding(code, f"{one.get('where') or file}: {one.get('message')}", file=file))
    return found


def clock_offset_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Returns how far the clock of a server's `Date` is ahead, less what a second hides."""
    try:
        offset_s = parsedate_to_datetime(headers["date"]).timestamp() + _CLOCK_STEP_S / 2 - now_s
    except (KeyError, ValueError):
        return None
    return 0.0 if abs(offset_s) <= _CLOCK_STEP_S else offset_s


def _exposed(urls: list[str]) -> Outcome:
    ports = {urlsplit(url).port or 80 for url in urls if is_this_machine(url)}
    if not ports:
        return [
            NotChecked(
                "addresses on which sidecars listen", "they are on other machines, or in other containers"
            )
        ]
    try:
        tables = [Path(f"/proc/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6")]
    except OSError:
        return [NotChecked("addresses on which sidecars listen", "this system does not report them")]
    found = [(port, address) for table in tables for address, port in listeners(table) if port in ports]
    return [
        finding("sidecar-exposed", f"port {port} of a sidecar listens on {address}")
        for port, address in sorted(set(found))
        if address not in {"::1", "::ffff:127.0.0.1"} and not address.startswith("127.")
    ]


CERTIFICATE_DAYS = 14


async def check_certificates(subject: Subject) -> Outcome:
    """When the certificates of stores, sidecars, the public address and the sign-in end."""
    settings = subject.settings
    named = {
        "DATABASE_URL": subject.database_url,
        "LIMITS_REDIS_URL": subject.limits_url,
        "CACHE_REDIS_URL": subject.cache_url,
        "the gateway": subject.gateway_url,
        "the public address": subject.public_url,
        "LLM_PROXY__CONSOLE_URL": settings.console_url,
        "LLM_PROXY__CONSOLE_OIDC_ISSUER": settings.console_oidc_issuer,
        **{f"the sidecar at {place_of(url)}": url for url in subject.sidecar_urls()},
    }
    places = {name: url for name, url in named.items() if url}
    reads = (not_after(url, timeout_s=REQUEST_TIMEOUT_S) for url in places.values())
    ends = await asyncio.gather(*reads, return_exceptions=True)
    found: Outcome = []
    for name, end in zip(places, ends, strict=True):
        if isinstance(end, datetime):
            found += judge_certificate(name, end, datetime.now(UTC))
        elif end is not None:
            found.append(NotChecked(f"the certificate of {name}", "no TLS answers there", is_unknown=True))
    if all(end is None for end in ends):
        found.append(NotChecked("certificates", "nothing here is reached by TLS"))
    return found


def judge_certificate(name: str, end: datetime, now: datetime) -> list[DoctorFinding]:
    """Returns a finding for a certificate that has ended or ends soon."""
    if end - now > timedelta(days=CERTIFICATE_DAYS):
        return []
    when = f"ends on {end:%Y-%m-%d}" if end > now else f"ended on {end:%Y-%m-%d}"
    return [finding("certificate-ends", f"the certificate of {name} {when}", where=name)]


_LISTENING = "0A"


def listeners(table: str) -> Iterator[tuple[str, int]]:
    """Yields address and port of each listening socket in `/proc/net/tcp` or `tcp6` (proc_net_tcp(5))."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == _LISTENING:
            address, _, port = fields[1].partition(":")
            words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
            family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
            yield socket.inet_ntop(family, b"".join(words)), int(port, 16)


def place_of(url: str) -> str:
    """Returns an address without a user, a password and a query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _reason(fault: httpx.HTTPError) -> str:
    if isinstance(fault, httpx.TimeoutException):
        return "it does not answer in time"
    for cause in _causes(fault):
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = "; LLM_PROXY__CA_FILE names a private CA" if cause.verify_code in _UNKNOWN_ISSUER else ""
            return f"its certificate is not verified: {cause.verify_message.rstrip('.')}{hint}"
        if isinstance(cause, ssl.SSLError):
            return "no TLS answers there"
        if isinstance(cause, socket.gaierror):
            return "the name is not found"
    return "nothing listens there" if isinstance(fault, httpx.ConnectError) else type(fault).__name__


def _causes(fault: BaseException) -> Iterator[BaseException]:
    """Yields a fault, then what it was raised from."""
    cause: BaseException | None = fault
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
