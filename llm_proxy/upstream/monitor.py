"""Polls the sidecars: their liveness, catalog, DNS names and address file.

Invariants: only the liveness route and the catalog are requested, never a model; a silent sidecar delays no
other's check; a failed refresh keeps the last good catalog and address list; calls at a sidecar that is
silent for `GIVE_UP_S` are ended. Units: seconds.
"""

import asyncio
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Coroutine, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from llm_proxy.background import BackgroundLoop, pause, spawn
from llm_proxy.telemetry import Metrics
from llm_proxy.upstream.catalog import Catalog, parse_sidecar_catalog
from llm_proxy.upstream.client import SidecarClient
from llm_proxy.upstream.http_client import ConnectError
from llm_proxy.upstream.model_info import parse_model_info
from llm_proxy.upstream.pool import SIDECAR_STATES, Sidecar, expand_urls

log = logging.getLogger(__name__)
CHECK_S = 1.0
RESOLVE_S = 5.0
CATALOG_S = 30.0
MISS_AFTER_S = 2.0
GIVE_UP_S = 10.0
"""Time without an answered check or other data after which the calls at a sidecar are ended."""
CHECK_TIMEOUT_S = GIVE_UP_S + MISS_AFTER_S
"""Timeout of one check: a sidecar that wakes up answers the one that is open."""
LIVENESS = "/health/liveliness"
DRAINING = b"leaving"


def read_addresses(given: Iterable[str]) -> tuple[str, ...]:
    """Returns every sidecar's base URL as of now, with port ranges expanded and files read."""
    found: list[str] = []
    for one in given:
        found.extend(_read_file(Path(one[1:])) if one.startswith("@") else [one])
    return expand_urls(found)


def _read_file(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in lines if line.startswith("http")]


class SidecarMonitor:
    """Checks sidecars, reads their catalog, follows their names."""

    def __init__(
        self,
        client: SidecarClient,
        urls: tuple[str, ...],
        metrics: Metrics,
        *,
        resolve_every_s: float = RESOLVE_S,
    ) -> None:
        self._resolve_every_s = resolve_every_s
        self._client = client
        self._metrics = metrics
        self._configured, self._urls = urls, read_addresses(urls)
        self._loop = BackgroundLoop("sidecars", self._step)
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._last_logged: dict[str, bool] = {}
        self._resolved_at = self._read_at = float("-inf")
        self._resolved: dict[str, list[tuple[str, str | None]]] = {}

    async def start(self) -> None:
        """Starts checking; the first check is made in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """Stops checking."""
        await self._loop.stop()
        for task in self._tasks.values():
            task.cancel()

    async def _step(self) -> None:
        await self._check_all(asyncio.get_running_loop().time())
        await pause(CHECK_S if self._client.catalog.snapshot is not None else CHECK_S / 4)

    async def _check_all(self, now: float) -> None:
        self._follow_address_file()
        if now - self._resolved_at >= self._resolve_every_s:
            self._resolved_at = now
            self._start_task("names", self._resolve())
            await asyncio.sleep(0)  # addresses need no look-up; names that take long delay no check
        for sidecar in self._client.pool.sidecars:
            self._start_task(sidecar, self._check(sidecar))
        if self._client.catalog.snapshot is None or now - self._read_at >= CATALOG_S:
            self._start_task("catalogue", self._read_catalog(now))
        self._client.queue.dispatch(now)
        self._update_metrics()

    def _update_metrics(self) -> None:
        gauge = self._metrics.set_gauge
        states = Counter(one.state for one in self._client.pool.sidecars)
        for state in SIDECAR_STATES:
            gauge("llm_proxy_sidecars", states[state], state)
        gauge("llm_proxy_upstream_in_flight", self._client.pool.in_flight)
        gauge("llm_proxy_waiting", self._client.queue.waiting)

    def _follow_address_file(self) -> None:
        """Follows a changed list of sidecars, and reads what the new ones serve."""
        urls = read_addresses(self._configured)
        if urls and urls != self._urls:
            log.info("other sidecars take over", extra={"sidecars": urls})
            self._urls = urls
            self._resolved_at = self._read_at = float("-inf")

    def _start_task(self, key: object, work: Coroutine[None, None, None]) -> None:
        """Starts a task for `key`, unless its last one is still running."""
        if key in self._tasks:
            work.close()
            return
        self._tasks[key] = task = spawn("sidecar-questions", work)
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _check(self, sidecar: Sidecar) -> None:
        sent_at = asyncio.get_running_loop().time()
        request = asyncio.create_task(self._client.get(sidecar, LIVENESS, timeout_s=CHECK_TIMEOUT_S))
        is_leaving = False
        try:
            await self._wait_for_answer(request, sidecar, sent_at)
            status, body = request.result()
        except ConnectError:
            sidecar.mark_down()
        except TimeoutError:
            pass  # recorded while waiting
        except OSError:
            sidecar.record_miss(sent_at)
        else:
            is_leaving = DRAINING in body
            if status >= 500 or is_leaving:
                sidecar.mark_down()
            else:
                sidecar.mark_healthy()
        finally:
            request.cancel()
        self._log_change(sidecar, is_leaving=is_leaving)

    async def _wait_for_answer(
        self, request: asyncio.Task[tuple[int, bytes]], sidecar: Sidecar, since: float
    ) -> None:
        """Waits for a check's answer; meanwhile records whether anything else comes from the sidecar."""
        while not request.done():
            before, activity = sidecar.successes, {call: call.activity for call in sidecar.calls}
            await asyncio.wait([request], timeout=MISS_AFTER_S)
            if request.done():
                return
            if sidecar.successes > before or any(
                call.activity > activity.get(call, 0) for call in sidecar.calls
            ):
                sidecar.mark_busy()
                since = asyncio.get_running_loop().time()
            else:
                sidecar.record_miss(since)
                self._give_up(sidecar)
            self._log_change(sidecar)

    def _log_change(self, sidecar: Sidecar, *, is_leaving: bool = False) -> None:
        """Logs, and counts where it is an end, that a sidecar is live or away."""
        is_well = not sidecar.is_down and sidecar.successes > 0
        if self._last_logged.get(sidecar.url, False) != is_well:
            self._last_logged[sidecar.url] = is_well
            if not is_well and sidecar in self._client.pool.sidecars:
                self._metrics.increment("llm_proxy_sidecar_exits_total", "left" if is_leaving else "lost")
            log.log(
                logging.INFO if is_well else logging.WARNING,
                "a sidecar is live" if is_well else "a sidecar is away",
                extra={"sidecar": sidecar.url},
            )

    def _give_up(self, sidecar: Sidecar) -> None:
        """Ends the calls at a sidecar that has been silent for too long."""
        now = asyncio.get_running_loop().time()
        since = sidecar.silent_since
        if since is not None and now - since >= GIVE_UP_S - 0.1 and sidecar.calls:
            log.warning(
                "the calls at a sidecar that does not answer are ended", extra={"sidecar": sidecar.url}
            )
            self._client.interrupt_calls_at(sidecar)

    async def _read_catalog(self, now: float) -> None:
        for sidecar in [one for one in self._client.pool.sidecars if not one.is_down]:
            try:
                found = await self._fetch(sidecar)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            self._client.catalog_settled = True
            if found is not None and sidecar in self._client.pool.sidecars:
                self._client.catalog.update(found)
                self._read_at = now
                return

    async def _fetch(self, sidecar: Sidecar) -> Catalog | None:
        status, body = await self._client.get(sidecar, "/llmp/catalog")
        if status == 200:
            return parse_sidecar_catalog(orjson.loads(body))
        status, body = await self._client.get(sidecar, "/v1/model/info")
        return parse_model_info(orjson.loads(body)) if status == 200 else None

    async def _resolve(self) -> None:
        """Resolves names: several addresses behind one name are several sidecars.

        A name that does not resolve now keeps the addresses it had: their own checks decide.
        """
        found: list[tuple[str, str | None]] = []
        for url in self._urls:
            parts = urlsplit(url)
            host = parts.hostname or ""
            if parts.scheme != "http" or host == "localhost" or _is_address(host):
                found.append((url, None))
                continue
            addresses = await addresses_of_name(url, host, parts.port or 80)
            if addresses:
                self._resolved[url] = addresses
            found.extend(addresses or self._resolved.get(url, [(url, None)]))
        if found:
            before = self._client.pool.sidecars
            self._client.pool.replace(found)
            gone = [one for one in before if one not in self._client.pool.sidecars]
            replaced = sum(one.successes > 0 and not one.is_down for one in gone)  # others were counted
            self._metrics.increment("llm_proxy_sidecar_exits_total", "replaced", by=replaced)


async def addresses_of_name(url: str, host: str, port: int) -> list[tuple[str, str | None]]:
    """Returns each sidecar behind a name, with the name if there are several; none if it does not resolve."""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    addresses = sorted({str(info[4][0]) for info in infos})
    if len(addresses) == 1:
        return [(url, None)]
    return [(f"http://{f'[{one}]' if ':' in one else one}:{port}", host) for one in addresses]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
