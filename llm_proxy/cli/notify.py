"""`llm-proxy notify test`: one test event to each webhook, and what came back.

Invariants: no address of a webhook is printed; exit 1 when one of them did not take it.
"""

import asyncio
import sys
from datetime import UTC, datetime
from uuid import uuid4

import click

from llm_proxy.cli import nearby
from llm_proxy.cli.printing import FAILED, WRONG, Column, as_json_option, fail, print_json, print_table
from llm_proxy.edge.notifications import delivery_of, webhook_faults
from llm_proxy.json_access import Json
from llm_proxy.notify import Delivery, DeliveryFailed, Message, Webhook, trial_event, webhooks_of


@click.group
def notify() -> None:
    """Look after the webhooks that are notified."""


@notify.command("test")
@as_json_option
def test_webhooks(*, as_json: bool) -> None:
    """Send a test event to each webhook, once.

    Reads LLM_PROXY__NOTIFY_WEBHOOKS and its secret from the environment, .env or .keys/.
    """
    settings = nearby.settings()
    webhooks = webhooks_of(settings.webhooks)
    if not webhooks:
        fail("LLM_PROXY__NOTIFY_WEBHOOKS is not set", WRONG)
    if faults := webhook_faults(settings, kept=False):
        fail("; ".join(faults), WRONG)
    event = trial_event()
    message = Message(uuid4(), event.kind, datetime.now(UTC), event.facts)
    results = asyncio.run(_all(delivery_of(settings), webhooks, message))
    if as_json:
        print_json(results)
    else:
        rows = [(one["webhook"], one["result"]) for one in results]
        print_table((Column("webhook", whole=True), "result"), rows)
    sys.exit(0 if all(one["delivered"] for one in results) else FAILED)


async def _all(delivery: Delivery, webhooks: tuple[Webhook, ...], message: Message) -> list[Json]:
    return list(await asyncio.gather(*(_one(delivery, webhook, message) for webhook in webhooks)))


async def _one(delivery: Delivery, webhook: Webhook, message: Message) -> Json:
    told = {"webhook": webhook.name, "event": str(message.event_id)}
    try:
        status = await delivery.send(webhook, message)
    except DeliveryFailed as fault:
        return told | {"delivered": False, "result": str(fault)}
    return told | {"delivered": True, "result": f"it answered {status}"}
