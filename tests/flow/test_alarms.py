"""Two alerts fired on purpose at real sidecars, and mended by their pages; `make alarms` fires all of them.

Beside them: every metric that rules and dashboard read is on a real gateway's page, with these labels.
"""

import asyncio
from functools import partial
from pathlib import Path

import httpx
from alarm_trial import AlarmTrial, require_promtool
from prometheus_client.parser import text_string_to_metric_families
from two_sidecars import TwoSidecars, run_gateway

from llm_proxy.telemetry.metric_table import METRICS


async def test_a_frozen_sidecar_and_failing_calls_raise_their_alarms(
    tmp_path: Path, two_sidecars: TwoSidecars, limits_redis_url: str, database_url: str
) -> None:
    """Each after its `for:`, and no longer than the fault lasts."""
    require_promtool()
    stores = {"LIMITS_REDIS_URL": limits_redis_url, "DATABASE_URL": database_url}
    with run_gateway(tmp_path, two_sidecars, stores) as made:
        trial = AlarmTrial(made.url, stores, tmp_path)
        async with httpx.AsyncClient(timeout=20) as client:

            async def fail() -> None:
                calls = (made.chat(client, made.body(do="status-500")) for _ in range(3))
                assert {one.status_code for one in await asyncio.gather(*calls)} == {502}

            assert (await made.chat(client)).status_code == 200
            await trial.scrape_until(lambda page: 'llm_proxy_sidecars{state="live"} 2.0' in page)
            await trial.scrape(20)
            calm = trial.minute - 1
            two_sidecars.freeze(0)
            await trial.scrape_until(lambda page: 'llm_proxy_sidecars{state="away"} 1.0' in page)
            await trial.scrape(7)
            frozen = trial.minute - 1
            await trial.follow_page("LlmProxySidecarDown")
            two_sidecars.thaw(0)
            await trial.scrape_until(lambda page: 'llm_proxy_sidecars{state="away"} 0.0' in page)
            await trial.scrape(3)
            thawed = trial.minute - 1
            failed = await trial.scrape_while(fail, 12)
            await trial.follow_page("LlmProxyErrors")
            await trial.scrape_while(partial(made.chat, client), 7)
            _assert_page_is_complete(await trial.page() or "")
    trial.assert_fired("LlmProxySidecarDown", calm=calm, fault=frozen, mended=thawed)
    trial.assert_fired("LlmProxyErrors", calm=thawed, fault=failed, mended=trial.minute - 1)


def _assert_page_is_complete(page: str) -> None:
    """The page names the metrics of `METRICS` and no other of ours; samples have these labels."""
    families = {one.name: one for one in text_string_to_metric_families(page)}
    readings = {name for name, metric in METRICS.items() if metric.kind == "reading"}
    names = {name.removesuffix("_total") for name in METRICS.keys() - readings}
    ours = {name for name in families if name.startswith("llm_proxy_")}
    assert names <= ours
    assert ours - names <= readings
    assert {"llm_proxy_postgres_connections", "llm_proxy_redis_used_bytes"} <= ours
    for name, metric in METRICS.items():
        found = families.get(name.removesuffix("_total"))
        for sample in found.samples if found else ():
            assert sample.labels.keys() - {"le"} == set(metric.labels), name
