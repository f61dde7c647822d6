"""Draws the first rows of the Grafana dashboard for docs/observe.md: `make dashboard-picture`.

A whole stack runs under a varied load before the scripted provider; a real Prometheus scrapes it. It
evaluates the panels' own expressions, and uPlot draws them in Chromium. Grafana itself is not needed.
"""

import asyncio
import html
import json
import os
import shutil
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import httpx
from chromium import run_chromium
from loopback import NO_TLS
from running_stack import ADMIN_KEY, Json, say, script
from screenshots import configuration, make_keys
from stack_processes import StackProcesses, run_stack

from llm_proxy.stack import process
from llm_proxy.stack.probe import free_port, is_up

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "deploy" / "grafana" / "llm-proxy.json"
PICTURE = ROOT / "docs" / "observe" / "dashboard.png"
STATIC = ROOT / "llm_proxy" / "console" / "static"
SECONDS, PANELS, PER_S = 120, 12, 5
RATE_INTERVAL = "20s"
COLOURS = ("#1f6feb", "#d29922", "#2da44e", "#cf222e", "#8250df", "#0f766e", "#bf3989", "#57606a")
STYLE = """
body{margin:0;padding:12px;background:#f4f5f5;font:13px sans-serif;color:#1f2328}
main{display:grid;grid-template-columns:repeat(3,1fr);gap:10px}
section{background:#fff;border:1px solid #d8dee4;border-radius:3px;padding:8px}
h2{font-size:13px;margin:0 0 4px}ul{margin:2px 0 0;padding:0;list-style:none;font-size:11px}
li{display:inline-block;margin-right:10px}b{display:inline-block;width:9px;height:9px;margin-right:4px}
"""


async def load(stack: StackProcesses) -> None:
    """Makes varied calls for `SECONDS`: whole and streamed, cached, failed, over a limit."""
    url, random = stack.url("gateway-1"), Random(11)  # noqa: S311 -- made-up calls
    async with httpx.AsyncClient(base_url=url, timeout=30, verify=NO_TLS) as client:
        client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        keys = await make_keys(client)
        running: set[asyncio.Task[None]] = set()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            task = asyncio.create_task(call(client, keys[random.choice(list(keys))]["key"], random))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(random.expovariate(PER_S))
        await asyncio.gather(*running)


async def call(client: httpx.AsyncClient, key: str, random: Random) -> None:
    """Makes one call."""
    plays: list[Json] = [{"do": "ok", "frames": 20, "gap_ms": random.choice([5, 20, 60])}] * 12
    said = script(**random.choice([*plays, {"do": "status-500"}, {"do": "cut", "after": 3}]))
    if random.random() < 0.2:
        said = "What is the capital of France?"  # answered from the cache
    model = random.choice(["gpt-5-mini", "gpt-5-mini", "claude-sonnet-4-6", "llama-3.3"])
    body = {"model": model, "messages": say(said), "stream": random.random() < 0.6}
    await client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})


async def panels(url: str, start_s: float, end_s: float) -> list[Json]:
    """Returns title and series of the first panels, as Prometheus answers their expressions."""
    drawn: list[Json] = []
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"][:PANELS]:
            series: list[Any] = []
            for target in panel["targets"]:
                asked = {
                    "query": target["expr"].replace("$__rate_interval", RATE_INTERVAL),
                    "start": start_s,
                    "end": end_s,
                    "step": 2,
                }
                found = (await client.get("/api/v1/query_range", params=asked)).json()["data"]["result"]
                series += [(_legend(target, one["metric"]), one["values"]) for one in found]
            drawn.append({"title": panel["title"], "series": series})
    return drawn


def _legend(target: Json, labels: Json) -> str:
    text = str(target.get("legendFormat") or "")
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text or ", ".join(labels.values()) or "all"


def page(drawn: list[Json]) -> str:
    """Returns the page that draws the panels."""
    sections: list[str] = []
    for number, panel in enumerate(drawn):
        times = sorted({at for _, values in panel["series"] for at, _ in values})
        lines = [[dict(values).get(at) for at in times] for _, values in panel["series"]]
        data = [times, *([None if v in (None, "NaN") else float(v) for v in line] for line in lines)]
        names = [name for name, _ in panel["series"]]
        legend = "".join(
            f"<li><b style='background:{COLOURS[i % len(COLOURS)]}'></b>{html.escape(name)}</li>"
            for i, name in enumerate(names)
        )
        options = {
            "width": 430,
            "height": 165,
            "legend": {"show": False},
            "scales": {"y": {"range": {"min": {"soft": 0, "mode": 1}, "max": {"pad": 0.1}}}},
            "series": [{}, *({"stroke": COLOURS[i % len(COLOURS)], "width": 1.5} for i in range(len(names)))],
        }
        drawing = f"new uPlot({json.dumps(options)},{json.dumps(data)},document.getElementById('p{number}'))"
        title = html.escape(panel["title"])
        sections.append(f"<section><h2>{title}</h2><div id=p{number}></div><ul>{legend}</ul></section>")
        sections.append(f"<script>{drawing}</script>")
    return (
        f"<!doctype html><style>{(STATIC / 'uplot.css').read_text()}{STYLE}</style>"
        f"<script>{(STATIC / 'uplot.js').read_text()}</script><main>{''.join(sections)}</main>"
    )


def prometheus(folder: Path, gateway_port: int, program: str) -> tuple[process.ProcessSpec, int]:
    """Returns a Prometheus that scrapes the gateway once a second, and its port."""
    port = free_port()
    (folder / "key").write_text(ADMIN_KEY, encoding="utf-8")
    config: Json = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "llm-proxy",
                "authorization": {"credentials_file": str(folder / "key")},
                "static_configs": [{"targets": [f"127.0.0.1:{gateway_port}"]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    argv = (
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )

    def is_ready(_: int) -> bool:
        return is_up(port, "/-/ready")

    return process.ProcessSpec(
        "prometheus", argv, {"PATH": os.environ["PATH"]}, readiness_probe=is_ready, cwd=folder
    ), port


async def main() -> int:
    """Writes the picture."""
    program = shutil.which("prometheus")
    if program is None:
        print("no prometheus on PATH: apt-get install prometheus", file=sys.stderr)  # noqa: T201 -- a command
        return 1
    with run_stack(configuration(), settings={"LLM_PROXY__AGENT_RPM": "90"}) as stack:
        spec, port = prometheus(stack.folder, stack.ports["gateway-1"], program)
        scraper = process.start(spec, stack.folder / "logs")
        try:
            process.wait_until_ready([scraper])
            start_s = time.time()
            await load(stack)
            drawn = await panels(f"http://127.0.0.1:{port}", start_s, time.time())
        finally:
            process.stop([scraper])
    async with run_chromium() as browser:
        shown = await browser.new_page(viewport={"width": 1400, "height": 900}, locale="en-GB")
        await shown.set_content(page(drawn))
        PICTURE.parent.mkdir(exist_ok=True)
        await shown.screenshot(path=PICTURE, full_page=True)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
