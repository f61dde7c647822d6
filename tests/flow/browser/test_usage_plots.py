"""The plot of usage draws the API's numbers; questions about spend are answered within three clicks."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import httpx
import pytest
from chromium import WatchedPage
from loopback import NO_TLS
from running_console import RunningConsole
from running_stack import ADMIN_KEY
from usage_records import record, write_records


@pytest.fixture
async def tenant(postgres_url: str, console: RunningConsole) -> str:  # noqa: ARG001 -- it has migrated
    """A tenant whose agents spent something in each of some days."""
    name, now = f"t{uuid4().hex[:10]}", datetime.now(UTC)
    records = [
        record(
            started_at=now - timedelta(days=day), tenant=name, agent=f"{name}-{agent}",
            cost_nano_usd=cost * 10**9,
        )
        for agent, day, cost in (("a", 0, 9), ("a", 2, 4), ("b", 2, 1), ("b", 9, 1), ("c", 3, 2))
    ]  # fmt: skip
    async with asyncpg.create_pool(postgres_url, min_size=0, max_size=1) as pool:
        await write_records(pool, records)
    return name


async def test_the_plot_draws_the_apis_numbers(
    page: WatchedPage, console: RunningConsole, tenant: str
) -> None:
    """Each series, and the heights at which they are stacked; light and dark, and at another width."""
    await page.sign_in(ADMIN_KEY)
    await page.visit(f"/usage?tenant={tenant}&by=agent&since=5d")
    figure = page.page.locator("figure[data-plot]")
    await figure.locator("canvas").wait_for()
    values = await figure.evaluate("one => one.values")
    headers = {"Authorization": f"Bearer {console.stack.admin_key}"}
    question = {"tenant": tenant, "since": "5d", "group_by": "agent,day"}
    async with httpx.AsyncClient(base_url=console.stack.url, headers=headers, verify=NO_TLS) as client:
        rows = (await client.get("/v1/usage", params=question)).json()["data"]
    days = [datetime.fromtimestamp(at, UTC).date().isoformat() for at in values["times"]]
    drawn = {
        (name, day): value
        for name, series in zip(values["names"], values["values"], strict=True)
        for day, value in zip(days, series, strict=True)
        if value
    }
    assert drawn == {(row["agent"], row["day"]): row["cost_usd"] for row in rows}
    heights = await figure.evaluate(
        "one => one.plot.data.slice(1).map((series) => series[series.length - 1])"
    )
    assert heights == [9, 9, 9]
    assert await figure.evaluate("one => Math.max(...one.plot.data[1])") == 9
    await page.page.emulate_media(color_scheme="dark")
    await page.page.set_viewport_size({"width": 400, "height": 800})
    await page.check()


async def test_why_a_team_spent_more_is_found_in_two_clicks(page: WatchedPage, tenant: str) -> None:
    """A range, the team, and there is what rose."""
    await page.sign_in(ADMIN_KEY)
    await page.visit("/overview?since=today")
    await page.page.get_by_role("link", name="90 days").click()
    await page.page.get_by_role("region", name="Usage by tenant").get_by_role("link", name=tenant).click()
    why = page.page.get_by_role("region", name="Why more than before")
    await why.wait_for()
    first = await why.get_by_role("listitem").first.text_content()
    assert f"agent {tenant}-a: +$13.00" in (first or "")
    await (
        page.page.get_by_role("region", name="What is wrong now")
        .get_by_role("listitem")
        .or_(page.page.get_by_text("Nothing is wrong"))
        .first.wait_for()
    )
    await page.page.get_by_role("link", name="Will the budgets last?").click()
    await page.page.get_by_role("heading", name="Will the budgets last?").wait_for()
    await page.check()
