"""The self-check after a start: each part of the chain with its state and time, and the models there are.

Invariants: no call costs money, so only the test model of this machine is called; what was not tried is not
called ok. Units: milliseconds.
"""

import http.client
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_proxy.settings import TEST_PROVIDER

_TIMEOUT_S = 60.0
_RECORD_TRIES, _RECORD_PAUSE_S = 50, 0.1
_ORDER = {"gateway": 0, "limits": 1, "sidecars": 2}
CHAT = "/v1/chat/completions"
EXAMPLE_QUESTION = "What is the capital of Japan?"
"""The test model answers it right in 50 of 50 calls with the settings of calls that set none."""
_QUESTION = {"messages": [{"role": "user", "content": EXAMPLE_QUESTION}], "max_tokens": 16}
_CALL_HEADERS = {"X-Agent-Id": "self-check", "Cache-Control": "no-store"}
_OK_STATUS = 200
_NAMES_SHOWN = 4


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """The gateway that was started.

    Attributes:
        internal_key: Makes the test call.
        admin_key: Reads what there is.
    """

    host: str
    port: int
    internal_key: str = field(repr=False)
    admin_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CheckedPart:
    """A part of the chain.

    Attributes:
        state: `ok`, `failed` or `not tried`.
        ms: Its own time; None where it has none.
        detail: Its state or its error, in words.
    """

    name: str
    state: str
    ms: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        """Returns a line of the table."""
        took = "" if self.ms is None else f"{self.ms:,.1f} ms"
        return f"{self.name:<9} {self.state:<9} {took:>11}  {self.detail}".rstrip()


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model group."""

    name: str
    mode: str | None
    providers: tuple[str, ...]

    @property
    def is_test_model(self) -> bool:
        """Whether only the test model's provider serves it."""
        return set(self.providers) <= {TEST_PROVIDER}


def served_models(gateway: RunningGateway) -> list[ServedModel]:
    """Returns the model groups that have a name of their own; none while the gateway does not answer."""
    answer = _ask(gateway, "GET", "/admin/models")
    groups: list[dict[str, Any]] = json.loads(answer.text)["data"] if answer and answer.is_ok else []
    return [
        ServedModel(one["id"], one["mode"], tuple(one["providers"])) for one in groups if not one["wildcard"]
    ]


def describe_models(models: Sequence[ServedModel]) -> list[str]:
    """Returns a line for each provider: its first models, and how many more."""
    by_provider: dict[str, list[str]] = {}
    for one in models:
        by_provider.setdefault(", ".join(one.providers), []).append(one.name)
    lines: list[str] = []
    for provider in sorted(by_provider, key=lambda name: name == TEST_PROVIDER):
        names = by_provider[provider]
        shown = ", ".join(names[:_NAMES_SHOWN])
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        source = "test models on this machine" if provider == TEST_PROVIDER else provider
        lines.append(f"{shown}{more} ({source})")
    return lines or ["none yet: put a provider's key into a file such as .keys/OPENAI_API_KEY"]


def check_chain(gateway: RunningGateway, models: Sequence[ServedModel]) -> Iterator[CheckedPart]:
    """Yields the parts in the order in which a call meets them."""
    health = _ask(gateway, "GET", "/health")
    parts: list[dict[str, str]] = json.loads(health.text).get("parts", []) if health else []
    if not parts:
        yield CheckedPart("gateway", "failed", detail="it does not answer; its log says why")
        return
    model = next((one.name for one in models if one.is_test_model and one.mode == "chat"), None)
    answer = _ask(gateway, "POST", CHAT, {**_QUESTION, "model": model}) if model else None
    times = _times(gateway, answer)
    for part in sorted(parts, key=lambda one: _ORDER.get(one["part"], len(_ORDER))):
        name, is_ok = part["part"], part["state"] == "ok"
        if name in _ORDER or not is_ok:
            detail = "" if part["detail"] == "up" else part["detail"]
            yield CheckedPart(name, "ok" if is_ok else "failed", times.get(name), detail)
    if model is None:
        why = "a call to any of these costs money" if models else "no model is served by its own name"
        yield CheckedPart("model", "not tried", detail=why)
    elif answer is None or not answer.is_ok:
        said = _error_message(answer.text) if answer else "no answer"
        yield CheckedPart("model", "failed", detail=f"{model}: {said}")
    else:
        yield CheckedPart("model", "ok", times.get("model"), model)
        if any(part["part"] == "database" for part in parts):
            yield _record_part(gateway, answer.headers["x-request-id"])


def _error_message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "an answer that is no error of the gateway's"


def _record_part(gateway: RunningGateway, request_id: str) -> CheckedPart:
    """Waits for the record of the test call, which is written just after its answer."""
    began = time.monotonic()
    for _ in range(_RECORD_TRIES):
        found = _ask(gateway, "GET", f"/v1/requests/{request_id}")
        if found is not None and found.is_ok:
            return CheckedPart("record", "ok", (time.monotonic() - began) * 1000)
        time.sleep(_RECORD_PAUSE_S)
    return CheckedPart("record", "failed", detail=f"that of {request_id} has not reached the database")


def _times(gateway: RunningGateway, answer: "_GatewayAnswer | None") -> dict[str, float]:
    """Returns the time that each part took of the test call, as far as it is known."""
    metrics = _ask(gateway, "GET", "/metrics")
    text = metrics.text if metrics else ""
    times = {
        "gateway": _mean_ms(text, r"llm_proxy_overhead_seconds_%s\{[^}]*\}"),
        "limits": _mean_ms(text, r'llm_proxy_store_seconds_%s\{store="limits"\}'),
    }
    told = answer.headers.get("server-timing", "") if answer else ""
    durations = {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", told)}
    times["sidecars"] = durations.get("sidecar")
    known = {name: ms for name, ms in times.items() if ms is not None}
    if "total" in durations:
        known["model"] = max(0.0, durations["total"] - sum(known.values()))
    return known


def _mean_ms(metrics: str, name: str) -> float | None:
    sums, counts = (
        [float(found) for found in re.findall(rf"(?m)^{name % part} (\S+)$", metrics)]
        for part in ("sum", "count")
    )
    return sum(sums) / sum(counts) * 1000 if sum(counts) else None


@dataclass(frozen=True, slots=True)
class _GatewayAnswer:
    is_ok: bool
    text: str
    headers: dict[str, str]


def _ask(
    gateway: RunningGateway, method: str, path: str, body: dict[str, Any] | None = None
) -> _GatewayAnswer | None:
    """Returns the gateway's answer; None without one."""
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=_TIMEOUT_S)
    key = gateway.internal_key if path == CHAT else gateway.admin_key
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"} | _CALL_HEADERS
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        found = {name.lower(): value for name, value in response.getheaders()}
        return _GatewayAnswer(response.status == _OK_STATUS, text, found)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
