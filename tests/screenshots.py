"""Pictures of the console's pages for docs/console.md: `make screenshots`.

A whole stack runs before the scripted provider, with made-up tenants, two weeks of records and a few calls;
each page of the navigation, and a failed request, is looked at in Chromium and written as a small PNG.
"""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import httpx
from chromium import WatchedPage, run_chromium, watched_page
from loopback import NO_TLS
from running_console import serve_console
from running_stack import ADMIN_KEY, say, script
from stack_processes import StackProcesses, run_stack
from usage_records import record, write_records

from llm_proxy.console.pages import PAGES
from llm_proxy.ledger import UsageRecord
from llm_proxy.schema.connections import open_command_pool
from llm_proxy.telemetry import uuid7

ROOT = Path(__file__).parents[1]
FOLDER, DOCUMENT = ROOT / "docs" / "console", ROOT / "docs" / "console.md"
MARKS = re.compile(r"(?s)(<!-- pictures: make screenshots -->\n).*?(<!-- end of pictures -->)")
SIZE = (1080, 760)
DAYS, CALLS_A_DAY = 14, 60
TEAMS = {"checkout": ("cart-helper", 0.9), "support": ("triage", 2.2), "research": ("reader", 4.0)}
MODELS = {"gpt-5-mini": ("openai", 40), "claude-sonnet-4-6": ("anthropic", 110), "llama-3.3": ("groq", 9)}
FAILS = script(do="status-500")


def configuration() -> dict[str, Any]:
    """Returns LiteLLM's configuration."""
    deployments = [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}", "api_base": "PROVIDER/v1", "api_key": "none"},
            "model_info": {
                "id": f"{provider}-{name}",
                "provider": provider,
                "input_cost_per_token": price * 1e-8,
                "output_cost_per_token": price * 4e-8,
            },
        }
        for name, (provider, price) in MODELS.items()
    ]
    rules = {"num_retries": 0, "disable_cooldowns": True, "fallbacks": [{"llama-3.3": ["gpt-5-mini"]}]}
    return {"model_list": deployments, "router_settings": rules}


async def make_keys(admin: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    """Returns a key of each team, by tenant."""
    made: dict[str, dict[str, Any]] = {}
    for tenant, (agent, share) in TEAMS.items():
        budget = {"limit_usd": f"{share * 40:.2f}", "period": "month"}
        body = {"name": f"{tenant}-{agent}", "tenant": tenant, "agent": agent, "models": ["*"]}
        answer = await admin.post("/admin/keys", json=body | {"rpm": 120, "budgets": [budget]})
        assert answer.is_success, answer.text
        made[tenant] = answer.json()
    return made


def history(keys: dict[str, dict[str, Any]]) -> Iterator[UsageRecord]:
    """Returns the calls of two weeks."""
    random, now = Random(7), datetime.now(UTC)  # noqa: S311 -- made-up calls
    for number in range(DAYS * CALLS_A_DAY):
        tenant, model = random.choice(list(TEAMS)), random.choice(list(MODELS))
        agent, share = TEAMS[tenant]
        provider, price = MODELS[model]
        tokens, failed = random.randrange(200, 6000), random.random() < 0.03
        key = keys[tenant]
        yield record(
            request_id=uuid7(),
            started_at=now - timedelta(days=DAYS * (1 - number / DAYS / CALLS_A_DAY)),
            key_id=key.get("id") or key["key_id"],
            key_prefix="-".join(str(key["key"]).split("-")[:3]),
            tenant=tenant,
            agent=agent,
            model=model,
            group=model,
            model_resolved=model,
            provider=provider,
            deployment=f"{provider}-{model}",
            status=502 if failed else 200,
            outcome="error" if failed else "ok",
            prompt_tokens=tokens,
            completion_tokens=tokens // 5,
            cost_nano_usd=0 if failed else int(tokens * price * 18 * share),
            latency_ms=random.uniform(300, 4000),
            ttft_ms=random.uniform(100, 900),
        )


async def make_calls(url: str, keys: dict[str, dict[str, Any]]) -> str:
    """Makes a run of calls; returns the id of one that failed."""
    key = keys["support"]["key"]
    headers = {"Authorization": f"Bearer {key}", "X-Run-Id": "ticket-4711"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, verify=NO_TLS) as client:
        for model in (*MODELS, *MODELS):
            body = {"model": model, "messages": say(f"Answer ticket 4711 with {model}")}
            await client.post("/v1/chat/completions", json=body)
        failed = await client.post(
            "/v1/chat/completions", json={"model": "claude-sonnet-4-6", "messages": say(FAILS)}
        )
    return failed.headers["x-request-id"]


async def take(watched: WatchedPage, failed: str) -> list[tuple[str, str]]:
    """Writes a picture of each page; returns their names and files."""
    page = watched.page
    await watched.sign_in(ADMIN_KEY)
    shown = [(one.label, one.path) for one in PAGES if one.label]
    shown.insert(3, ("One request", f"/requests/{failed}"))
    taken: list[tuple[str, str]] = []
    for label, path in shown:
        file = FOLDER / f"{label.lower().replace(' ', '-')}.png"
        await page.goto(watched.origin + path)
        await page.wait_for_load_state("networkidle")
        await page.screenshot(path=file)
        taken.append((label, file.name))
    return taken


async def main() -> None:
    """Writes the pictures, and the list of them in the document."""
    FOLDER.mkdir(exist_ok=True)
    with run_stack(configuration(), settings={"LLM_PROXY__AGENT_RPM": "0"}) as stack:
        failed = await fill(stack)
        with serve_console(stack.folder, stack.database_url, stack.url("gateway-1")) as console:
            async with run_chromium() as browser, watched_page(browser, console.url, size=SIZE) as watched:
                taken = await take(watched, failed)
    lines = "".join(f"**{label}**\n\n![{label}](console/{file})\n\n" for label, file in taken)
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(MARKS.sub(lambda found: f"{found[1]}{lines}{found[2]}", text), encoding="utf-8")


async def fill(stack: StackProcesses) -> str:
    """Makes keys, history and calls; returns the id of a call that failed."""
    url = stack.url("gateway-1")
    async with httpx.AsyncClient(
        base_url=url, headers={"Authorization": f"Bearer {ADMIN_KEY}"}, verify=NO_TLS
    ) as admin:
        keys = await make_keys(admin)
        await write(stack.database_url, list(history(keys)))
        failed = await make_calls(url, keys)
        for _ in range(100):
            if (await admin.get(f"/v1/requests/{failed}")).status_code == 200:
                break
            await asyncio.sleep(0.1)
    return failed


async def write(database_url: str, records: list[UsageRecord]) -> None:
    """Writes records as a ledger does."""
    async with open_command_pool(database_url, None) as pool:
        await write_records(pool, records)


if __name__ == "__main__":
    asyncio.run(main())
