"""Draws a trace for docs/observe.md, from spans as they were exported: `make trace-picture`.

A program with OpenTelemetry's SDK makes the calls of one task through a whole stack, in one trace. Its spans
and the gateway's reach the same OTLP collector; Chromium draws them as a waterfall.
"""

import asyncio
import html
import time
from pathlib import Path
from typing import Any

import httpx
from chromium import run_chromium
from loopback import NO_TLS
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otlp_collector import Collector, run_collector
from running_stack import ADMIN_KEY, Json, say, script
from screenshots import configuration, make_keys
from stack_processes import run_stack

PICTURE = Path(__file__).parents[1] / "docs" / "observe" / "trace.png"
CALLS, WAIT_S = 5, 20.0
SHOWN = (
    "gen_ai.request.model", "gen_ai.provider.name", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens",
    "http.response.status_code", "error.type", "llm_proxy.tenant", "llm_proxy.agent", "llm_proxy.outcome",
    "llm_proxy.cost_usd", "llm_proxy.ttft_ms", "llm_proxy.request_id",
)  # fmt: skip
STYLE = """
body{margin:0;padding:14px;background:#f4f5f5;font:13px sans-serif;color:#1f2328}
section{background:#fff;border:1px solid #d8dee4;border-radius:3px;padding:10px;margin-bottom:10px}
h2{font-size:13px;margin:0 0 8px}
.row{display:grid;grid-template-columns:330px 1fr;height:24px;align-items:center}
.name{white-space:nowrap;overflow:hidden}.name small{color:#57606a}.line{position:relative;height:16px}
.bar{position:absolute;height:16px;border-radius:2px}.first{height:16px;background:#ffffff88}
.took{position:absolute;white-space:nowrap;font-size:11px;line-height:16px;color:#57606a}
table{border-collapse:collapse;font-size:12px}td{padding:2px 14px 2px 0}td+td{font-family:monospace}
"""
AGENT, GATEWAY, FAILED = "#57606a", "#1f6feb", "#cf222e"


def _plain(attributes: Any) -> Json:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _spans(collector: Collector) -> list[Json]:
    return [
        _span(_plain(resource.resource.attributes)["service.name"], one)
        for resource in collector.received
        for scope in resource.scope_spans
        for one in scope.spans
    ]


def _span(service: str, one: Any) -> Json:
    return {
        "service": service,
        "name": one.name,
        "trace": one.trace_id.hex(),
        "begin_ns": one.start_time_unix_nano,
        "end_ns": one.end_time_unix_nano,
        "failed": one.status.code == one.status.STATUS_CODE_ERROR,
        "attributes": _plain(one.attributes),
    }


async def make_calls(url: str, key: str, collector: str) -> None:
    """Makes the calls of one task: one after the other, two at once, one that fails, one from the cache."""
    provider = TracerProvider(resource=Resource({"service.name": "triage"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector}/v1/traces")))
    answer = script(do="ok", frames=20, gap_ms=20)
    async with httpx.AsyncClient(base_url=url, timeout=30, verify=NO_TLS) as client:

        async def call(model: str, text: str, *, stream: bool = False) -> None:
            headers = {"Authorization": f"Bearer {key}", "X-Run-Id": "ticket-4711"}
            inject(headers)
            body = {"model": model, "messages": say(text), "stream": stream}
            await client.post("/v1/chat/completions", json=body, headers=headers)

        for model, done in (("gpt-5-mini", "ok"), ("claude-sonnet-4-6", "ok"), ("gpt-5-mini", "status-500")):
            await call(model, f"hello {script(do=done)}", stream=done == "ok")  # a first call takes longer
        with provider.get_tracer("triage").start_as_current_span("answer ticket 4711"):
            await call("gpt-5-mini", f"plan {answer}", stream=True)
            await asyncio.gather(
                call("claude-sonnet-4-6", f"read {script(do='ok', frames=20, gap_ms=35)}", stream=True),
                call("gpt-5-mini", f"search {script(do='status-500')}"),
            )
            await call("gpt-5-mini", f"write {answer}", stream=True)
            await asyncio.sleep(0.05)
            await call("gpt-5-mini", f"plan {answer}", stream=True)
    provider.shutdown()


def page(spans: list[Json]) -> str:
    """Returns the page that draws the spans of one trace, the earliest first, and the attributes of one."""
    spans = sorted(spans, key=lambda one: (one["begin_ns"], -one["end_ns"]))
    begin, end = spans[0]["begin_ns"], max(one["end_ns"] for one in spans)
    rows = "".join(_row(one, begin, end - begin) for one in spans)
    calls = [one for one in spans if one["service"] == "llm-proxy" and not one["failed"]]
    chosen = max(calls, key=lambda one: one["end_ns"] - one["begin_ns"])
    found = chosen["attributes"]
    cells = "".join(
        f"<tr><td>{name}</td><td>{html.escape(_shown(found[name]))}</td></tr>"
        for name in SHOWN
        if name in found
    )
    return (
        f"<!doctype html><style>{STYLE}</style><section><h2>Trace {spans[0]['trace']}</h2>{rows}</section>"
        f"<section><h2>llm-proxy: {html.escape(chosen['name'])}</h2><table>{cells}</table></section>"
    )


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _row(one: Json, begin: int, whole: int) -> str:
    left, width = (100 * ns / whole for ns in (one["begin_ns"] - begin, one["end_ns"] - one["begin_ns"]))
    took_ms, of_gateway = (one["end_ns"] - one["begin_ns"]) / 1e6, one["service"] == "llm-proxy"
    colour = FAILED if one["failed"] and of_gateway else GATEWAY if of_gateway else AGENT
    first = 100 * one["attributes"].get("llm_proxy.ttft_ms", 0) / took_ms
    side = f"right:{100.5 - left}%" if left + width > 75 else f"left:{left + width + 0.5}%"
    side = "left:0.5%;color:#fff" if width > 90 else side
    indent = 14 if of_gateway else 0
    note = f" · {one['attributes']['error.type']}" if "error.type" in one["attributes"] else ""
    bar = f"left:{left}%;width:max({width}%,2px);background:{colour}"
    return (
        f"<div class=row><div class=name style='padding-left:{indent}px'><small>{one['service']}</small> "
        f"{html.escape(one['name'])}</div><div class=line>"
        f"<div class=bar style='{bar}'><div class=first style='width:{first}%'></div></div>"
        f"<div class=took style='{side}'>{took_ms:,.0f} ms{html.escape(note)}</div></div></div>"
    )


async def traced(url: str, collector: Collector) -> list[Json]:
    """Makes the calls; returns the spans of their trace."""
    async with httpx.AsyncClient(
        base_url=url, headers={"Authorization": f"Bearer {ADMIN_KEY}"}, verify=NO_TLS
    ) as admin:
        key = (await make_keys(admin))["support"]["key"]
    await make_calls(url, key, collector.url)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        received = _spans(collector)
        [root] = [one["trace"] for one in received if one["service"] == "triage"]
        spans = [one for one in received if one["trace"] == root]
        if len(spans) == CALLS + 1:
            return spans
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{CALLS} spans of calls are expected: {_spans(collector)}")


async def main() -> None:
    """Writes the picture."""
    with run_collector() as collector:
        settings = {"LLM_PROXY__OTLP_ENDPOINT": collector.url, "LLM_PROXY__AGENT_RPM": "0"}
        with run_stack(configuration(), settings=settings) as stack:
            spans = await traced(stack.url("gateway-1"), collector)
    async with run_chromium() as browser:
        shown = await browser.new_page(viewport={"width": 1080, "height": 300}, locale="en-GB")
        await shown.set_content(page(spans))
        await shown.screenshot(path=PICTURE, full_page=True)


if __name__ == "__main__":
    asyncio.run(main())
