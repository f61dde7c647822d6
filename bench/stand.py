"""The test stand: stores, upstream and subjects, started together, measured in turn.

Invariants: nothing outlives the stand; what was not answered as it should be is counted apart; CPU is that of
the subject's whole process tree while the load was on, divided by what it served; the other subjects stand
still meanwhile, so that nobody's timers are in another's figures.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import process_stats, subjects
from bench.subjects import ROOT, SECRET, TRAFFIC, Stores
from llm_proxy.stack import probe, process
from llm_proxy.stack.process import ManagedProcess, ProcessSpec
from llm_proxy.stack.stores import postgres_spec, postgres_url, valkey_spec, valkey_url

PASSWORD = "only-for-this-bench"  # noqa: S105 -- of stores that live for a minute
PATH = "/v1/chat/completions"
SETTLE_S = 0.1
"""What a subject gets to catch up after it stood still."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing to measure: where it listens, with what words it is asked, whose CPU counts.

    Attributes:
        others: Process groups that stand still while it is measured.
    """

    name: str
    url: str
    pids: tuple[int, ...]
    headers: tuple[str, ...] = ()
    others: tuple[int, ...] = ()

    def cpu_s(self) -> float:
        """User and system time used so far."""
        return sum(process_stats.cpu_s(pid) for pid in self.pids)

    def rss_mb(self) -> float:
        """Resident memory, in MB."""
        return sum(process_stats.rss_bytes(pid) for pid in self.pids) / 2**20


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
    frames: int
    spoilt: int


@dataclass(slots=True)
class Stand:
    """What runs."""

    folder: Path
    upstream_port: int
    stores: Stores
    running: dict[str, ManagedProcess] = field(default_factory=dict[str, ManagedProcess])

    def start(self, *programs: ProcessSpec) -> None:
        """Start programs together, and wait until all of them serve."""
        begun = [process.start(program, self.folder / "logs") for program in programs]
        self.running |= {one.spec.name: one for one in begun}
        process.wait_until_ready(begun)

    def subject(
        self, name: str, port: int, key: str = TRAFFIC, *programs: str, headers: tuple[str, ...] = ()
    ) -> Subject:
        """A started program as a subject; where programs are named, it is their CPU that counts."""
        pids = tuple(self.pid(one) for one in (programs or (name,)))
        return Subject(name, self.url(port), pids, (f"authorization: Bearer {key}", *headers))

    def url(self, port: int) -> str:
        """Where chat calls go."""
        return f"http://127.0.0.1:{port}{PATH}"

    def pid(self, name: str) -> int:
        """Of a started program."""
        return self.running[name].popen.pid


@contextmanager
def still(groups: tuple[int, ...]) -> Iterator[None]:
    """Process groups stopped by the kernel until the block ends."""
    try:
        for group in groups:
            os.killpg(group, signal.SIGSTOP)
        time.sleep(SETTLE_S)
        yield
    finally:
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGCONT)


@contextmanager
def standing() -> Iterator[Stand]:
    """The stores and the upstream, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="llm-proxy-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        at = {one: probe.free_port() for one in ("upstream", "postgres", "valkey")}
        stores = Stores(postgres_url(at["postgres"], PASSWORD), valkey_url(at["valkey"], PASSWORD))
        stand = Stand(folder, at["upstream"], stores)
        try:
            stand.start(
                postgres_spec(folder, at["postgres"], PASSWORD, durable=False),
                valkey_spec("limits", folder, at["valkey"], PASSWORD),
                subjects.upstream(at["upstream"]),
            )
            yield stand
        finally:
            process.stop(stand.running.values())


def body(model: str = "bench", *, stream: bool = False, agent: str | None = None) -> str:
    """A small chat call."""
    said = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France? Answer in one word."},
    ]
    asked: dict[str, object] = {"model": model, "messages": said, "temperature": 0.7, "max_tokens": 100}
    asked |= {"stream": True} if stream else {}
    asked |= {"metadata": {"agent_id": agent}} if agent else {}
    return json.dumps(asked, separators=(",", ":"))


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
    """Put load on a subject and see what it costs; raises `RuntimeError` when nothing was served."""
    words = [sys.executable, "-m", "bench.load", subject.url, "--body", sent, "--seconds", str(seconds)]
    words += ["--connections", str(connections), *(("--requests", str(requests)) if requests else ())]
    words += ["--pause-ms", str(pause_ms)]
    words += [word for header in subject.headers for word in ("--header", header)]
    with still(subject.others):
        before_s = subject.cpu_s()
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        used_s = subject.cpu_s() - before_s
    if done.returncode:
        raise RuntimeError(f"{subject.name}: {done.stderr[-2000:]}")
    seen = json.loads(done.stdout)
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
        frames=seen["frames"],
        spoilt=seen["served"] - good + seen["broken"],
    )


def virtual_key(gateway_port: int, **spec: object) -> str:
    """The text of a fresh virtual key."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{gateway_port}/admin/keys",
        data=json.dumps(spec).encode(),
        headers={"authorization": f"Bearer {subjects.ADMIN}", "content-type": "application/json"},
    )
    for _ in range(50):
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return str(json.load(answer)["key"])
        except urllib.error.HTTPError as fault:
            if fault.code != 503:
                raise
        time.sleep(0.2)  # another gateway is still making the tables
    raise RuntimeError("no key could be made")


def await_model(gateway_port: int, patience_s: float = 15.0) -> None:
    """Wait until the gateway has read what the upstream serves."""
    ends = time.monotonic() + patience_s
    asked = urllib.request.Request(
        f"http://127.0.0.1:{gateway_port}/v1/models", headers={"authorization": f"Bearer {SECRET}"}
    )
    while time.monotonic() < ends:
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(asked, timeout=5) as answer:
            if json.load(answer)["data"]:
                return
        time.sleep(0.1)
    raise RuntimeError("the gateway found no model")


def load_average() -> float:
    """How busy the machine was in the last minute."""
    return os.getloadavg()[0]
