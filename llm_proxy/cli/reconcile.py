"""`llm-proxy reconcile`: the gateway's records against the sidecar's log, differences listed.

Invariants: nothing is changed without `--apply`, and then only estimates; the exit code is 1 when figures
the provider stated differ, so that a job can watch it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from llm_proxy.cli.database import database_url, run, trusted_at
from llm_proxy.cli.printing import Column, as_json_option, print_json, print_table
from llm_proxy.ledger.queries import connected
from llm_proxy.ledger.question import moment
from llm_proxy.ledger.reconcile import Disagreement, disagreements, enrich


@click.command(context_settings={"show_default": True})
@click.option("--since", default="24h", help="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")
@click.option("--until", default="1m", help="The same; a call's log may come a few seconds after its record.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, help="At most so many differences.")
@click.option("--apply", "applies", is_flag=True, help="First make estimates exact by the sidecar's log.")
@as_json_option
@click.pass_context
def reconcile(
    context: click.Context, *, since: str, until: str, limit: int, applies: bool, as_json: bool
) -> None:
    """Compare the gateway's records with the sidecar's.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    now = datetime.now(UTC)
    found, enriched = run(
        _reconcile(
            database_url(),
            moment(since, now),
            moment(until, now, param="until"),
            limit=limit,
            applies=applies,
        )
    )
    if as_json:
        print_json({"enriched": enriched, "differences": [_plain(one) for one in found]})
    else:
        _show(found, enriched)
    context.exit(1 if any(one.usage_source == "provider" for one in found) else 0)


async def _reconcile(
    url: str, since: datetime, until: datetime, *, limit: int, applies: bool
) -> tuple[Sequence[Disagreement], int]:
    async with connected(url, trusted_at(url)) as usage:
        enriched = await enrich(usage.pool, since, until) if applies else 0
        return await disagreements(usage.pool, since, until, limit), enriched


def _show(found: Sequence[Disagreement], enriched: int) -> None:
    if enriched:
        click.echo(f"{enriched} estimates made exact")
    if not found:
        click.echo("no differences")
        return
    rows = [
        (
            one.started_at.strftime("%m-%d %H:%M:%S"), str(one.request_id), ", ".join(one.kinds),
            one.usage_source or "-", one.outcome or "-", _pair(one.tokens), _pair(one.logged_tokens),
            _usd(one.cost_usd), _usd(one.logged_cost_usd),
        )
        for one in found
    ]  # fmt: skip
    wholes = (Column("started", whole=True), Column("request id", whole=True))
    numbers = (Column(title, number=True) for title in ("tokens", "logged", "USD", "logged USD"))
    print_table([*wholes, "difference", "source", "outcome", *numbers], rows)
    click.echo(f"{len(found)} differences")


def _plain(one: Disagreement) -> dict[str, Any]:
    return {
        "request_id": str(one.request_id),
        "started_at": one.started_at.isoformat(),
        "kinds": list(one.kinds),
        "usage_source": one.usage_source,
        "outcome": one.outcome,
        "tokens": list(one.tokens),
        "logged_tokens": list(one.logged_tokens),
        "cost_usd": None if one.cost_usd is None else f"{one.cost_usd:f}",
        "logged_cost_usd": None if one.logged_cost_usd is None else f"{one.logged_cost_usd:f}",
    }


def _pair(tokens: tuple[int | None, int | None]) -> str:
    return "+".join("?" if one is None else str(one) for one in tokens)


def _usd(cost: Any) -> str:  # noqa: ANN401 -- a Decimal or nothing
    return "?" if cost is None else f"{cost:f}"
