"""Plays the rendered chart with podman, as root: `make play-chart`; docs/kubernetes.md has what it showed.

A trial with two gateways and two sidecars: hooks, a chat, a stream, records, the console; then calls run all
the time while sidecars and gateways are exchanged in the chart's order, and while one that holds records of a
database that is away is replaced. Ends with exit code 1 at the first thing that is not as it has to be.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import yaml
from played_pods import NETWORK, Object, PlayedChart, PlayedPod, PlayFailed, podman, use_own_configuration

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".play"
PROVIDER = "play-provider"
CONFIG = """\
model_list:
  - model_name: play
    litellm_params:
      {model: openai/gpt-4o, api_base: "http://play-provider:9000/v1", api_key: os.environ/OPENAI_API_KEY}
"""
MIN_READY_S = 8
"""Instead of the chart's 40: podman's DNS keeps no answer; a gateway asks every 5 s."""
PAUSE_S = 0.4
"""Between two calls: a load that two busy cores serve."""
FRESH = httpx.Limits(max_keepalive_connections=0)
"""A connection a call: who keeps one has to expect its end, as SDKs do, which try again."""
NOTICE_S = 2
"""After which the nodes of a cluster send a Pod that ends no new connection."""
IMAGES = ("gateway", "sidecar", "postgres", "valkey")
VALUES: Object = {
    "images": {
        one: {"repository": f"localhost/play/{one}", "tag": "latest", "pullPolicy": "Never"} for one in IMAGES
    },
    "secrets": {
        "gateway": {
            "values": {
                "LLM_PROXY__INTERNAL_API_KEY": "internal-key-of-the-play",
                "LLM_PROXY__ADMIN_KEY": "admin-key-of-the-play",
                "LLM_PROXY__LITELLM_API_KEY": "sk-of-the-gateway-in-the-play",
                "SIDECAR_DB_PASSWORD": "sidecars-password-of-the-play",
            }
        },
        "sidecar": {"values": {"OPENAI_API_KEY": "sk-of-the-provider"}},
    },
    "sidecar": {"minReadySeconds": MIN_READY_S, "config": CONFIG},
    "gateway": {"spool": {"persistent": True}},
    "console": {"enabled": True, "url": "http://localhost:7070"},
}
HEADERS = {"authorization": "Bearer internal-key-of-the-play"}


def render(values: Object) -> list[Object]:
    """The chart's objects; the stores' passwords are made once and kept, as Helm does in a cluster."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        command = [
            ROOT / ".helm" / "helm",
            "template",
            "gw",
            ROOT / "deploy" / "helm" / "llm-proxy",
            "-f",
            file.name,
        ]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise PlayFailed(ran.stderr)
    return [one for one in yaml.safe_load_all(ran.stdout) if one]


def with_secrets_of(old: list[Object], new: list[Object]) -> list[Object]:
    """A rendering with the Secrets of the one before."""
    kept = {one["metadata"]["name"]: one for one in old if one["kind"] == "Secret"}
    return [kept.get(one["metadata"]["name"], one) if one["kind"] == "Secret" else one for one in new]


@dataclass(slots=True)
class Callers:
    """Callers that come all the time, by turns to each gateway that is ready, as a Service sends them.

    Attributes:
        gateways: The Pods; one whose readiness probe fails, or that ends since `NOTICE_S`, gets no new call.
        lost: What went wrong, call by call.
    """

    gateways: list[PlayedPod]
    chats: int = 0
    streams: int = 0
    lost: list[str] = field(default_factory=list)
    _failed: dict[int, int] = field(default_factory=dict)
    _turn: Iterator[int] = field(default_factory=itertools.count)

    async def run(self, until: asyncio.Event) -> None:
        """Calls until the event is set, then waits for the calls that run."""
        probing = asyncio.create_task(self._probe(until))
        calls: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(headers=HEADERS, timeout=60, limits=FRESH) as client:
            while not until.is_set():
                number = next(self._turn)
                calls.add(asyncio.create_task(self._call(client, number, streamed=number % 3 == 0)))
                calls = {one for one in calls if not one.done()}
                await asyncio.sleep(PAUSE_S)
            await asyncio.gather(*calls)
        await probing

    async def leave(self, pod: PlayedPod) -> None:
        """Takes a Pod that begins to end out of the Service, as late as a cluster's nodes learn of it."""
        await asyncio.sleep(NOTICE_S)
        self.gateways = [one for one in self.gateways if one is not pod]

    @property
    def ready(self) -> list[PlayedPod]:
        """The Pods that get new calls: as for the kubelet, one failed probe is none."""
        return [one for one in self.gateways if self._failed.get(id(one), 2) < 2] or self.gateways

    async def _probe(self, until: asyncio.Event) -> None:
        while not until.is_set():
            for one in list(self.gateways):
                ready = await asyncio.to_thread(one.probe, "readinessProbe")
                self._failed[id(one)] = 0 if ready else self._failed.get(id(one), 2) + 1
            await asyncio.sleep(1)

    async def _call(self, client: httpx.AsyncClient, number: int, *, streamed: bool) -> None:
        gateway = self.ready[number % len(self.ready)]
        try:
            await call(client, gateway, streamed=streamed)
        except (httpx.HTTPError, PlayFailed) as fault:
            self.lost.append(f"{time.strftime('%X')} {gateway.name}: {type(fault).__name__} {fault}")
        self.streams += streamed
        self.chats += not streamed


async def call(client: httpx.AsyncClient, gateway: PlayedPod, *, streamed: bool) -> str:
    """A chat, or a stream of four seconds; returns the answer, raises when it is not whole."""
    part = {"do": "slow", "frames": 20, "gap_ms": 200} if streamed else {"do": "ok"}
    body = {"model": "play", "stream": streamed, "messages": [{"role": "user", "content": json.dumps(part)}]}
    answer = await client.post(f"http://{gateway.address}:7007/v1/chat/completions", json=body)
    if answer.status_code != 200:
        raise PlayFailed(f"{answer.status_code} {answer.text[:300]}")
    if streamed and not answer.text.rstrip().endswith("data: [DONE]"):
        raise PlayFailed(f"a stream that was cut: …{answer.text[-300:]}")
    return answer.text


def require(holds: object, what: str) -> None:
    """Prints what holds; raises when it does not."""
    if not holds:
        raise PlayFailed(f"not so: {what}")
    print(f"  ✓ {what}", flush=True)


def command(pod: PlayedPod, *words: str) -> str:
    """What a command of llm-proxy prints in a gateway's Pod."""
    code, text = pod.run("/app/.venv/bin/python", "-m", "llm_proxy", *words)
    if code:
        raise PlayFailed(f"{words}: {text[-800:]}")
    return text


async def query(chart: PlayedChart, postgres: PlayedPod, statement: str) -> Any:  # noqa: ANN401 -- a value of SQL
    """One value of the database, read as its owner."""
    data = chart.find("Secret", "-gateway")["data"]
    url = base64.b64decode(data["LLM_PROXY__DATABASE_URL"]).decode()
    connection = await asyncpg.connect(url.replace("gw-llm-proxy-postgres", postgres.address))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def wait_for(what: str, holds: Callable[[], Awaitable[bool]], within_s: float = 60) -> None:
    """Waits until something holds; raises when it does not in time."""
    end = time.monotonic() + within_s
    while not await holds():
        if time.monotonic() > end:
            raise PlayFailed(f"not so within {within_s:.0f} s: {what}")
        await asyncio.sleep(0.5)
    require(True, what)  # noqa: FBT003 -- it holds


class Play:
    """The stack of the play, step by step."""

    def __init__(self) -> None:
        self.objects = render(VALUES)
        self.chart = PlayedChart(self.objects)
        self.calls = 0

    def hooks_before(self) -> None:
        """The hook that judges the configuration."""
        print("the hook before the installation", flush=True)
        good = self.chart.start("Job", "-config-check")
        require(good.exit_code() == 0, "a good litellm-config.yaml passes")
        self.chart.stop(good)
        broken = PlayedChart(render(VALUES | {"sidecar": {"config": "model_list: [\n"}}))
        bad = broken.start("Job", "-config-check")
        require(
            bad.exit_code() != 0,
            f"one that no sidecar would start with is refused: {bad.log().strip()[-120:]}",
        )
        broken.remove_all()

    def install(self) -> None:
        """Everything the release has, then the hook after it."""
        print("the installation", flush=True)
        start = self.chart.start
        self.postgres = start("StatefulSet", "-postgres")
        stores = [self.postgres, start("StatefulSet", "-limits"), start("Deployment", "-cache")]
        self.sidecars = [start("Deployment", "-sidecar", number) for number in range(2)]
        self.gateways = [start("StatefulSet", "-gateway", number) for number in range(2)]
        for pod in [*stores, *self.sidecars, *self.gateways]:
            pod.wait_until_ready()
            require(pod.probe("livenessProbe"), f"{pod.name} is ready and live at {pod.address}")
        migration = start("Job", "-migrate")
        require(migration.exit_code() == 0, f"the migration: {migration.log().strip().splitlines()[-1]}")
        self.chart.stop(migration)
        console = start("Deployment", "-console")
        console.wait_until_ready()
        require(console.probe("livenessProbe"), "the console answers to its own name")

    def confinement(self) -> None:
        """What the kernel says of the containers."""
        print("confinement", flush=True)
        for pod in (self.gateways[0], self.sidecars[0], self.postgres):
            _, status = pod.run("cat", "/proc/1/status")
            found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            user = pod.spec["securityContext"]["runAsUser"]
            require(set(found["Uid"].split()) == {str(user)}, f"{pod.name} runs as user {user}")
            none = all(int(found[one], 16) == 0 for one in ("CapEff", "CapPrm", "CapBnd", "CapAmb"))
            require(none and found["NoNewPrivs"] == "1", "  without capabilities, and gets no new ones")
            require(found["Seccomp"] == "2", "  behind seccomp")
            require(pod.run("touch", "/usr/x")[0] != 0, "  on a read-only root")
        described = podman("inspect", *(one.container_name for one in (*self.gateways, *self.sidecars)))
        require(
            "sk-of-the" not in described and "key-of-the" not in described,
            "no container's description has a key",
        )
        _, keys = self.sidecars[0].run("ls", "/run/keys")
        require(
            "LITELLM_MASTER_KEY" in keys and "LLM_PROXY__" not in keys,
            "a sidecar has no key of the gateway but one",
        )

    async def first_calls(self) -> None:
        """A chat, a stream, and their records."""
        print("first calls", flush=True)
        async with httpx.AsyncClient(headers=HEADERS, timeout=60) as client:
            for gateway in self.gateways:
                require("choices" in await call(client, gateway, streamed=False), f"a chat at {gateway.name}")
                require("[DONE]" in await call(client, gateway, streamed=True), f"a stream at {gateway.name}")
        self.calls += 4
        await self.records("both gateways' records are in Postgres")

        async def are_logged() -> bool:
            return bool(
                await query(self.chart, self.postgres, "select count(*) from llm_calls") >= self.calls
            )

        await wait_for("sidecars log their calls under their own role", are_logged)
        require(
            "demo" in command(self.gateways[0], "keys", "create", "--name", "demo"),
            "keys create, in a gateway's Pod",
        )

    async def records(self, what: str) -> None:
        """Waits until each call so far has its row, and none two."""

        async def are_there() -> bool:
            return bool(await query(self.chart, self.postgres, "select count(*) from requests") == self.calls)

        await wait_for(f"{what}: {self.calls} rows", are_there)

    async def under_calls(self, what: str, exchange: Callable[[Callers], Awaitable[None]]) -> None:
        """Exchanges Pods while calls run all the time; none may be lost."""
        print(what, flush=True)
        callers, until = Callers(list(self.gateways)), asyncio.Event()
        running = asyncio.create_task(callers.run(until))
        await asyncio.sleep(3)
        await exchange(callers)
        await asyncio.sleep(3)
        until.set()
        await running
        self.calls += callers.chats + callers.streams
        result = (
            f"{callers.chats} chats and {callers.streams} streams of four seconds, {len(callers.lost)} lost"
        )
        require(not callers.lost, f"{result} {callers.lost[:3] or ''}")
        await self.records("each has its record")

    async def exchange_sidecars(self, _: Callers) -> None:
        """As a Deployment that surges by one: a new one, ready for minReadySeconds, then an old one ends."""
        for number in (2, 3):
            new = await asyncio.to_thread(self.chart.start, "Deployment", "-sidecar", number)
            await asyncio.to_thread(new.wait_until_ready)
            await asyncio.sleep(MIN_READY_S)
            old = self.sidecars.pop(0)
            began = time.monotonic()
            await asyncio.to_thread(self.chart.stop, old)
            self.sidecars.append(new)
            print(
                f"  {new.name} for {old.name}, which took {time.monotonic() - began:.0f} s to end", flush=True
            )

    async def exchange_gateways(self, callers: Callers) -> None:
        """As a StatefulSet: the last one ends, starts anew with its volume, is ready; then the one before."""
        for number in (1, 0):
            old = self.gateways[number]
            began = time.monotonic()
            await asyncio.gather(asyncio.to_thread(self.chart.stop, old), callers.leave(old))
            new = await asyncio.to_thread(self.chart.start, "StatefulSet", "-gateway", number)
            await asyncio.to_thread(new.wait_until_ready)
            self.gateways[number] = new
            callers.gateways = list(self.gateways)
            print(f"  {new.name} anew after {time.monotonic() - began:.0f} s", flush=True)
            await asyncio.sleep(5)

    async def change_configuration(self) -> None:
        """Another litellm-config.yaml: another digest, other sidecars."""
        changed = VALUES | {
            "sidecar": VALUES["sidecar"]
            | {"config": CONFIG + CONFIG.split("\n", 1)[1].replace(": play\n", ": play-2\n")}
        }
        objects = with_secrets_of(self.objects, render(changed))
        self.chart.rendered_anew(objects)
        await self.under_calls(
            "another configuration: sidecars exchanged while calls run", self.exchange_sidecars
        )

        async def is_served() -> bool:
            async with httpx.AsyncClient(headers=HEADERS, timeout=10) as client:
                answer = await client.get(f"http://{self.gateways[0].address}:7007/v1/models")
            return "play-2" in answer.text

        await wait_for("the new model is served", is_served)

    async def database_away(self) -> None:
        """A gateway ends while Postgres is away; its records wait in its volume."""
        print("a gateway is replaced while Postgres is away", flush=True)
        await asyncio.to_thread(self.chart.stop, self.postgres)
        async with httpx.AsyncClient(headers=HEADERS, timeout=60) as client:
            for _ in range(20):
                await call(client, self.gateways[1], streamed=False)
        self.calls += 20
        require(True, "20 calls are answered without Postgres")  # noqa: FBT003 -- it holds
        await asyncio.to_thread(self.chart.stop, self.gateways[1])
        self.postgres = await asyncio.to_thread(self.chart.start, "StatefulSet", "-postgres")
        await asyncio.to_thread(self.postgres.wait_until_ready)
        missing = self.calls - await query(self.chart, self.postgres, "select count(*) from requests")
        require(missing == 20, "their 20 records are not in Postgres, and the Pod that had them is gone")
        self.gateways[1] = await asyncio.to_thread(self.chart.start, "StatefulSet", "-gateway", 1)
        await asyncio.to_thread(self.gateways[1].wait_until_ready)
        await self.records("the Pod of the same number writes them")


async def play() -> None:
    """The whole play."""
    stack = Play()
    try:
        stack.hooks_before()
        stack.install()
        stack.confinement()
        await stack.first_calls()
        await stack.under_calls("gateways exchanged while calls run", stack.exchange_gateways)
        await stack.database_away()
        await stack.change_configuration()
    finally:
        stack.chart.remove_all()


def prepare() -> None:
    """Images, a network, and the provider."""
    WORK.mkdir(exist_ok=True)
    use_own_configuration(WORK)
    if "--as-is" not in sys.argv:
        print("images", flush=True)
        build()
    clean()
    podman("network", "create", NETWORK)
    start_provider()


def build() -> None:
    """Builds the images; `.play/images.log` has what it printed."""
    with (WORK / "images.log").open("w", encoding="utf-8") as log:
        subprocess.run(["sh", "scripts/play_images.sh", WORK], cwd=ROOT, stdout=log, stderr=log, check=True)  # noqa: S607


def start_provider() -> None:
    """Runs the scripted provider in the network."""
    podman(
        *("run", "--detach", "--name", PROVIDER, "--network", f"{NETWORK}:alias={PROVIDER}"),
        *(
            "--volume",
            f"{ROOT / 'tests'}:/tests:ro",
            "--entrypoint",
            "/app/.venv/bin/python",
            "localhost/play/gateway",
        ),
        *("/tests/scripted_provider.py", "--host", "0.0.0.0", "--port", "9000"),  # noqa: S104 -- in its own network
    )


def clean() -> None:
    """Removes what a play leaves, or one before left."""
    podman("rm", "--force", "--time", "0", PROVIDER, check=False)
    for pod in podman("pod", "ls", "--format", "{{.Name}}").split():
        if pod.startswith("gw-llm-proxy-"):
            podman("pod", "rm", "--force", "--time", "0", pod, check=False)
    for volume in podman("volume", "ls", "--quiet").split():
        if "gw-llm-proxy-" in volume:
            podman("volume", "rm", "--force", volume, check=False)
    podman("network", "rm", "--force", NETWORK, check=False)


if __name__ == "__main__":
    began = time.monotonic()
    try:
        prepare()
        asyncio.run(play())
    except PlayFailed as fault:
        sys.exit(f"  ✗ {fault}")
    finally:
        with contextlib.suppress(PlayFailed):
            clean()
    print(f"played in {time.monotonic() - began:.0f} s")
