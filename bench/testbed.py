"""The subjects of a comparison, each before the same static upstream, and how one is measured.

Invariants: every subject has one worker and every setting that makes it faster and keeps its job; answers
that are not as they should be are counted apart; CPU is that of the subject's whole process tree, divided by
what it served; the other subjects stand still meanwhile (SIGSTOP): their timers are in nobody's figures.
"""

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from running_stack import ADMIN_KEY, KEY, MASTER_KEY
from sidecars import sidecar_spec
from stack_processes import PASSWORD, StackProcesses, gateway_spec

from bench import ROOT, process_stats
from bench.upstream import EMBEDDINGS, INPUTS, MODELS, NATIVE, OTHER_APIS
from llm_proxy.stack.probe import free_port, is_up
from llm_proxy.stack.process import ProcessSpec
from llm_proxy.stack.stores import postgres_spec, valkey_spec, valkey_url

DIRECT, RELAY, SCRIPTED = "direct", "bare relay", "bare relay + one Redis script"
GATEWAY, WITHOUT_STORES = "llm-proxy", "llm-proxy, no stores"
LITELLM, SIDECAR, BOTH = "LiteLLM", "our sidecar alone", "llm-proxy + our sidecar"
CACHED_LITELLM, CACHED_SIDECAR = "LiteLLM, cache on", "our sidecar alone, cache on"
CACHED_BOTH = "llm-proxy + our sidecar, cache on"
FERROGW, CONSTANT = "ferrogw", "a constant answer"
BEHIND = {BOTH: SIDECAR, CACHED_BOTH: CACHED_SIDECAR}
"""Gateway -> the sidecar behind it; the CPU of both is the gateway's."""
TRANSLATED = {"Anthropic": ("anthropic", ""), "Gemini": ("gemini", "/v1beta")}
"""Wire -> LiteLLM's name of the provider, and the path that its base address ends in."""
OTHERS = ROOT / ".bench"
PATH = "/v1/chat/completions"
UNLIMITED = 1_000_000_000
PRICES = {"input_cost_per_token": 0.000001, "output_cost_per_token": 0.000002}
"""Of every model: LiteLLM reckons a price it does not know over and over again."""
SETTLE_S, REST_S = 0.1, 1.0
GATEWAY_SETTINGS = {
    "LLM_PROXY__LITELLM_API_KEY": MASTER_KEY,
    "LLM_PROXY__AGENT_RPM": str(UNLIMITED),
    "LLM_PROXY__MAX_IN_FLIGHT": "2000",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing to measure.

    Attributes:
        pids: Whose CPU counts.
        others: Process groups that stand still while it is measured.
        path: What is asked.
    """

    name: str
    port: int
    pids: tuple[int, ...]
    key: str = MASTER_KEY
    others: tuple[int, ...] = ()
    path: str = PATH

    def cpu_s(self) -> float:
        """CPU used so far."""
        return sum(map(process_stats.cpu_s, self.pids))

    def rss_mb(self) -> float:
        """Resident memory."""
        return sum(map(process_stats.rss_bytes, self.pids)) / 2**20


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement; times in milliseconds."""

    cpu_us: float
    cpu_us_frame: float
    per_second: float
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    first_p99_ms: float
    rss_mb: float
    served: int
    spoilt: int


@dataclass(slots=True)
class Testbed:
    """The running subjects.

    Attributes:
        rejected: The gateway asked with an unknown key (401), and with a key whose limit is used up (429).
        constant: uvicorn, answering every request with the same 401.
        groups: The process groups of all subjects but the upstream.
        starts: Medians of a few starts of the gateway: seconds to live, CPU seconds, MB at rest.
    """

    stack: StackProcesses
    subjects: dict[str, Subject]
    rejected: dict[int, Subject]
    constant: Subject
    starts: tuple[float, float, float]
    groups: tuple[int, ...]


@contextmanager
def run_testbed(wanted: Collection[str], *, starts: int = 0) -> Iterator[Testbed]:
    """These subjects and what stands behind them, until the block ends, after `starts` measured starts."""
    with tempfile.TemporaryDirectory(prefix="llm-proxy-bench-") as name:
        stack = StackProcesses(Path(name))
        stack.folder.chmod(0o711)
        try:
            _start_stores(stack)
            seen = _starts(stack, starts) if starts else (0.0, 0.0, 0.0)
            needed = {*wanted, *(BEHIND[one] for one in wanted if one in BEHIND)}
            programs = {one: spec for one, spec in _programs(stack).items() if one in needed}
            for one, spec in programs.items():
                stack.add(one, replace(spec, ready_timeout_s=120), stack.ports[one])
            stack.start(*programs)
            yield _testbed(stack, [*programs], seen)
        finally:
            stack.stop()


def _start_stores(stack: StackProcesses) -> None:
    at = {name: free_port() for name in ("upstream", "postgres", "limits", "cache")}
    stack.add(
        "postgres", postgres_spec(stack.folder, at["postgres"], PASSWORD, durable=False), at["postgres"]
    )
    stack.add("limits", valkey_spec("limits", stack.folder, at["limits"], PASSWORD), at["limits"])
    stack.add("cache", valkey_spec("cache", stack.folder, at["cache"], PASSWORD), at["cache"])
    stack.add("upstream", upstream_spec(at["upstream"]), at["upstream"])
    stack.start("postgres", "limits", "cache", "upstream")


def upstream_spec(port: int) -> ProcessSpec:
    """The static upstream."""
    return _python("bench.upstream", port, "/health/liveliness")


def _programs(stack: StackProcesses) -> dict[str, ProcessSpec]:
    names = (RELAY, SCRIPTED, CONSTANT, GATEWAY, WITHOUT_STORES, LITELLM, SIDECAR, BOTH, FERROGW)
    cached = (CACHED_LITELLM, CACHED_SIDECAR, CACHED_BOTH)
    stack.ports |= {name: free_port() for name in (*names, *cached)}
    at, upstream = stack.ports, stack.url("upstream")
    redis = valkey_url(at["limits"], PASSWORD)
    found = {
        RELAY: _python("bench.relay", at[RELAY], "", "--upstream", upstream),
        SCRIPTED: _python("bench.relay", at[SCRIPTED], "", "--upstream", upstream, "--redis", redis),
        CONSTANT: _python("bench.relay", at[CONSTANT], ""),
        GATEWAY: _gateway(stack, at[GATEWAY], upstream),
        WITHOUT_STORES: _gateway(stack, at[WITHOUT_STORES], upstream, stores=False),
    }
    found |= _litellm(stack)
    found |= {both: _gateway(stack, at[both], stack.url(sidecar)) for both, sidecar in BEHIND.items()}
    if (OTHERS / "venv" / "bin" / "ferrogw").exists():
        found[FERROGW] = _ferrogw(stack)
    return found


def _gateway(stack: StackProcesses, port: int, sidecar: str, *, stores: bool = True) -> ProcessSpec:
    """With stores everything is on; without, limits are counted in the process and records go to disk."""
    redis = valkey_url(stack.ports["limits"], PASSWORD)
    urls = {"DATABASE_URL": stack.database_url, "LIMITS_REDIS_URL": redis} if stores else {}
    made = gateway_spec(port, stack.folder, [sidecar], GATEWAY_SETTINGS | urls)
    return replace(made, readiness_probe=lambda _: is_up(port, "/health/live"))


def _litellm(stack: StackProcesses) -> dict[str, ProcessSpec]:
    """LiteLLM as its own command starts it, and as our sidecar: same configuration, one worker, bytecode.

    Each once without and once with a cache of answers in the same Valkey.
    """
    file, at = litellm_config(stack.folder, stack.url("upstream")), stack.ports
    redis = valkey_url(at["cache"], PASSWORD)
    cached = stack.folder / "litellm-cached.yaml"
    config = json.loads(file.read_text())
    config["litellm_settings"] |= {"cache": True, "cache_params": {"type": "redis", "url": redis}}
    cached.write_text(json.dumps(config))
    key = {"LITELLM_MASTER_KEY": MASTER_KEY}
    return {
        LITELLM: litellm_spec(at[LITELLM], file, MASTER_KEY),
        SIDECAR: sidecar_spec(file, at[SIDECAR], key),
        CACHED_LITELLM: litellm_spec(at[CACHED_LITELLM], cached, MASTER_KEY),
        CACHED_SIDECAR: sidecar_spec(file, at[CACHED_SIDECAR], key | {"CACHE_REDIS_URL": redis}),
    }


def litellm_config(folder: Path, upstream: str) -> Path:
    """The file of the models, all served by `upstream`: on OpenAI's wire, Anthropic's and Gemini's."""

    def model(name: str, provider: str = "openai", base: str = "/v1", **info: object) -> dict[str, Any]:
        params = {"model": f"{provider}/{name}", "api_base": upstream + base, "api_key": "none"}
        return {"model_name": name, "litellm_params": params, "model_info": PRICES | info}

    models = [model(one) for one in MODELS if one != NATIVE]
    models.append(model(NATIVE, supported_endpoints=OTHER_APIS))
    models.append(model(EMBEDDINGS, mode="embedding"))
    models += [model(f"bench-{provider}", provider, base) for provider, base in TRANSLATED.values()]
    general = {"general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"}}
    file = folder / "litellm.yaml"
    file.write_text(json.dumps({"model_list": models, **general, "litellm_settings": {"telemetry": False}}))
    return file


def litellm_spec(port: int, config: Path, key: str, more: dict[str, str] | None = None) -> ProcessSpec:
    """LiteLLM as its own command starts it, with one worker."""
    words = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    local = dict.fromkeys(("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"), "True")
    env = local | {"LITELLM_MASTER_KEY": key, "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    command = (str(ROOT / ".venv-sidecar" / "bin" / "litellm"), *words)
    return _spec(port, command, "/health/liveliness", env=env | (more or {}), cwd=config.parent)


def _ferrogw(stack: StackProcesses) -> ProcessSpec:
    """Ferro's gateway, its own limits raised."""
    config, port = stack.folder / "ferrogw.yaml", stack.ports[FERROGW]
    target = f"targets:\n  - virtual_key: openai\n    models: [{', '.join(MODELS)}]\n"
    config.write_text(f"strategy: {{mode: single}}\n{target}")
    env = {
        "GATEWAY_CONFIG": str(config), "MASTER_KEY": MASTER_KEY, "PORT": str(port), "LOG_LEVEL": "error",
        "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": stack.url("upstream"),
        "RATE_LIMIT_RPS": "1000000", "RATE_LIMIT_BURST": "1000000",
    }  # fmt: skip
    command = (str(OTHERS / "venv" / "bin" / "ferrogw"), "serve")
    return _spec(port, command, "/readyz", env=env, cwd=stack.folder)


def _python(module: str, port: int, alive: str, *words: str) -> ProcessSpec:
    return _spec(port, (sys.executable, "-m", module, "--port", str(port), *words), alive, env={}, cwd=ROOT)


def _spec(port: int, argv: tuple[str, ...], alive: str, *, env: dict[str, str], cwd: Path) -> ProcessSpec:
    def listens(_: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    inherited = {one: os.environ[one] for one in ("PATH", "HOME") if one in os.environ}
    ready = (lambda _: is_up(port, alive)) if alive else listens
    return ProcessSpec(name=argv[0], argv=argv, env=inherited | env, readiness_probe=ready, cwd=cwd)


def _testbed(stack: StackProcesses, names: list[str], starts: tuple[float, float, float]) -> Testbed:
    groups = {stack.pid(name) for name in names}
    found = {DIRECT: Subject(DIRECT, stack.ports["upstream"], (stack.pid("upstream"),))}
    for name in names:
        pids = tuple(stack.pid(one) for one in (name, BEHIND.get(name)) if one)
        key = KEY if name == WITHOUT_STORES else MASTER_KEY
        if name in (GATEWAY, WITHOUT_STORES, *BEHIND):
            _await_model(stack.ports[name])
        if name in (GATEWAY, *BEHIND):
            plain = "".join(letter if letter.isalnum() else "-" for letter in name)
            key = virtual_key(stack.ports[name], name=plain, agent="scout", rpm=UNLIMITED)
        found[name] = Subject(name, stack.ports[name], pids, key, tuple(groups.difference(pids)))
    rejected: dict[int, Subject] = {}
    if GATEWAY in names:
        tight = virtual_key(stack.ports[GATEWAY], name="tight", agent="busy", rpm=1)
        rejected[401] = replace(found[GATEWAY], key="sk-somebody-elses-0123456789")
        rejected[429] = replace(found[GATEWAY], key=tight)
    constant = found.pop(CONSTANT, found[DIRECT])
    return Testbed(stack, found, rejected, constant, starts, tuple(groups))


def _starts(stack: StackProcesses, times: int) -> tuple[float, float, float]:
    """Starts the gateway with its stores a few times, lets it rest, stops it."""
    seen: list[tuple[float, float, float]] = []
    for _ in range(times):
        port, began = free_port(), time.perf_counter()
        stack.add("started", _gateway(stack, port, stack.url("upstream")), port)
        stack.start("started", wait=False)
        while not is_up(port, "/health/live"):
            time.sleep(0.01)
        start_s, pid = time.perf_counter() - began, stack.pid("started")
        cpu_s = process_stats.cpu_s(pid)
        time.sleep(REST_S)
        seen.append((start_s, cpu_s, process_stats.rss_bytes(pid) / 2**20))
        stack.stop("started")
    start_s, cpu_s, rss_mb = (statistics.median(figures) for figures in zip(*seen, strict=True))
    return start_s, cpu_s, rss_mb


def body(model: str = "bench", *, stream: bool = False) -> str:
    """A small chat call."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France? Answer in one word."},
    ]
    chat = {"model": model, "messages": messages, "temperature": 0.7, "max_tokens": 100}
    return _written(chat, stream=stream)


def other_body(path: str, model: str, *, stream: bool = False) -> str:
    """The same call by one of `OTHER_APIS`."""
    chat: dict[str, Any] = json.loads(body(model))
    system, user = chat.pop("messages")
    if path == "/v1/messages":
        return _written(chat | {"system": system["content"], "messages": [user]}, stream=stream)
    chat |= {"instructions": system["content"], "input": [user], "max_output_tokens": chat.pop("max_tokens")}
    return _written(chat | {"store": False}, stream=stream)


def embeddings_body(**more: object) -> str:
    """A call for the vectors of `INPUTS` short texts."""
    texts = [f"Sentence {at} of a page that is to be found by what it means." for at in range(INPUTS)]
    return _written({"model": EMBEDDINGS, "input": texts, **more}, stream=False)


def _written(call: dict[str, Any], *, stream: bool) -> str:
    return json.dumps(call | ({"stream": True} if stream else {}), separators=(",", ":"))


def measure(
    subject: Subject,
    sent: str,
    *,
    connections: int = 16,
    seconds: float = 2.0,
    requests: int = 0,
    status: int = 200,
    pause_ms: float = 0.0,
) -> Run:
    """Puts load on a subject and measures what it costs; raises `RuntimeError` when nothing was served."""
    words = ["--connections", str(connections), "--seconds", str(seconds), "--pause-ms", str(pause_ms)]
    words += ["--requests", str(requests)] if requests else []
    seen, used_s = _put(subject, sent, "bench.load", *words)
    good = seen["statuses"].get(str(status), 0)
    if not good:
        raise RuntimeError(f"{subject.name}: no answer {status}, but {seen['statuses']}")
    return Run(
        cpu_us=used_s / seen["served"] * 1e6,
        cpu_us_frame=used_s / seen["frames"] * 1e6 if seen["frames"] else 0.0,
        per_second=seen["served"] / seen["seconds"],
        p50_ms=seen["total_ms"]["p50"],
        p99_ms=seen["total_ms"]["p99"],
        first_p50_ms=seen["first_ms"]["p50"],
        first_p99_ms=seen["first_ms"]["p99"],
        rss_mb=subject.rss_mb(),
        served=seen["served"],
        spoilt=seen["served"] - good + seen["broken"],
    )


def put_burst(subject: Subject, sent: str, rate: int) -> dict[str, float]:
    """Puts a burst on a subject; what its callers saw."""
    found: dict[str, float]
    found, _ = _put(subject, sent, "bench.burst", "--rate", str(rate))
    return found


def _put(subject: Subject, sent: str, load: str, *words: str) -> tuple[Any, float]:
    """Runs a program that puts load on a subject; what it printed, and the CPU seconds of the subject."""
    url = f"http://127.0.0.1:{subject.port}{subject.path}"
    command = [sys.executable, "-m", load, url, "--body", sent, *words]
    command += ["--header", f"authorization: Bearer {subject.key}"]
    with still(subject.others):
        before_s = subject.cpu_s()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        used_s = subject.cpu_s() - before_s
    if done.returncode:
        raise RuntimeError(f"{subject.name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout), used_s


@contextmanager
def still(groups: tuple[int, ...]) -> Iterator[None]:
    """These process groups stand still until the block ends."""
    try:
        for group in groups:
            os.killpg(group, signal.SIGSTOP)
        time.sleep(SETTLE_S)
        yield
    finally:
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGCONT)


def virtual_key(gateway_port: int, **spec: object) -> str:
    """The text of a fresh virtual key."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway_port}/admin/keys",
        data=json.dumps({"tenant": "acme"} | spec).encode(),
        headers={"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"},
    )
    return str(_until_served(request)["key"])


def _await_model(gateway_port: int) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"http://127.0.0.1:{gateway_port}/v1/models", headers=headers)
    while not _until_served(request)["data"]:
        time.sleep(0.1)


def _until_served(request: urllib.request.Request, timeout_s: float = 15) -> dict[str, object]:
    """The answer, once the gateway's tables are made."""
    ends = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                found: dict[str, object] = json.load(answer)
                return found
        except urllib.error.HTTPError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)
