"""Finds the events worth a notification, stores them, and delivers them; in background loops.

Invariants: only `provider_rejected_credentials` is called during a call, and it only enqueues. Events that
cannot be stored because the database is unavailable are stored later. A webhook that does not answer delays
no other.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from llm_proxy.admission.spending_watch import SpendingWatch
from llm_proxy.background import BackgroundLoop
from llm_proxy.notify.event import (
    Notification,
    budget_notifications,
    provider_credentials_notification,
    refused_credentials_notification,
    sidecar_lost_notification,
)
from llm_proxy.notify.outbox import CLAIM_BATCH, ClaimedDelivery, Outbox
from llm_proxy.notify.webhook import DeliveryFailed, Webhook, WebhookSender
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected
from llm_proxy.telemetry import Metrics

log = logging.getLogger(__name__)

POLL_EVERY_S = 2.0
CREDENTIALS_EVERY_S = 5.0
DELETE_EXPIRED_EVERY_S = 3600.0
MIN_REFUSED_CREDENTIALS = 20
"""Rejected credentials from one address within an hour that make an event."""
MAX_WAITING = 10_000
RECHECK_S = 60.0
"""After an event without a period, the database is not queried for its repetition for this time."""
_METRIC = "llm_proxy_notifications_total"

Sidecars = Callable[[], Mapping[str, bool]]
"""Returns the sidecars' addresses, and whether each is live."""


@dataclass(frozen=True, slots=True)
class NotifierSources:
    """The state that the notifier polls.

    Attributes:
        budget_shares: Shares of a budget that make an event, in per cent.
        sidecar_away_s: A sidecar unavailable for longer makes an event.
    """

    spending: SpendingWatch
    sidecars: Sidecars
    budget_shares: tuple[int, ...] = (50, 80, 100)
    sidecar_away_s: float = 60.0


class Notifier:
    """The notifications of one gateway process."""

    def __init__(
        self,
        outbox: Outbox,
        webhooks: Sequence[Webhook],
        sender: WebhookSender,
        sources: NotifierSources,
        metrics: Metrics,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock_s` measures how long a sidecar has been unavailable."""
        self._outbox = outbox
        self._webhooks = [one.name for one in webhooks]
        self._sender = sender
        self._sources = sources
        self._metrics = metrics
        self._clock_s = clock_s
        self._waiting: dict[str, Notification] = {}
        self._recheck_at_s: dict[str, float] = {}
        self._unavailable_since: dict[str | None, float] = {}
        self._loops = (
            BackgroundLoop("notifications", self.poll, every_s=POLL_EVERY_S),
            BackgroundLoop("notifications-credentials", self.poll_credentials, every_s=CREDENTIALS_EVERY_S),
            BackgroundLoop(
                "notifications-retention", self._delete_expired, every_s=DELETE_EXPIRED_EVERY_S, at_once=True
            ),
            *(
                BackgroundLoop("notifications-delivery", partial(self.deliver, one), every_s=POLL_EVERY_S)
                for one in webhooks
            ),
        )

    async def start(self) -> None:
        """Starts the loops."""
        for loop in self._loops:
            loop.start()

    async def stop(self) -> None:
        """Stops the loops and stores the last events; other replicas deliver what is not delivered yet."""
        for loop in self._loops:
            await loop.stop()
        for _ in range(2):  # the second poll sees what was settled last
            await self.poll()

    def provider_rejected_credentials(self, deployment: str, group: str) -> None:
        """Enqueues an event; does not wait."""
        self._enqueue(provider_credentials_notification(deployment, group))

    async def poll(self) -> None:
        """Checks budgets and sidecars, and stores new events."""
        for spending in await self._sources.spending.poll():
            for event in budget_notifications(spending, self._sources.budget_shares):
                self._enqueue(event)
        self._poll_sidecars()
        await self._store()

    async def poll_credentials(self) -> None:
        """Checks for addresses with many rejected credentials."""
        try:
            for client_ip, times in await self._outbox.refused_addresses(MIN_REFUSED_CREDENTIALS):
                self._enqueue(refused_credentials_notification(client_ip, times))
        except (DatabaseUnavailable, RowsRejected) as fault:
            log.info("rejected credentials cannot be read now", extra={"why": str(fault)})

    async def deliver(self, webhook: Webhook) -> None:
        """Delivers what is due to a webhook, until a delivery fails."""
        while True:
            try:
                claimed = await self._outbox.claim(webhook.name)
            except (DatabaseUnavailable, RowsRejected) as fault:
                log.info("notifications wait for the database", extra={"why": str(fault)})
                return
            done = await asyncio.gather(*(self._send(webhook, one) for one in claimed))
            if len(claimed) < CLAIM_BATCH or not all(done):
                return

    async def _send(self, webhook: Webhook, delivery: ClaimedDelivery) -> bool:
        fields = {
            "event": str(delivery.message.event_id),
            "webhook": delivery.webhook,
            "attempts": delivery.attempts,
        }
        try:
            try:
                await self._sender.send(webhook, delivery.message)
            except DeliveryFailed as fault:
                given_up = await self._outbox.mark_failed(delivery, str(fault))
                self._metrics.increment(_METRIC, "given_up" if given_up else "failed")
                message = "a notification is given up" if given_up else "a notification was not delivered yet"
                log.log(
                    logging.ERROR if given_up else logging.WARNING,
                    message,
                    extra=fields | {"why": str(fault)},
                )
            else:
                self._metrics.increment(_METRIC, "delivered")
                await self._outbox.mark_delivered(delivery)
                return True
        except (
            DatabaseUnavailable,
            RowsRejected,
        ) as fault:  # the claim expires, and the delivery is repeated
            log.warning(
                "the delivery of a notification cannot be recorded", extra=fields | {"why": str(fault)}
            )
        return False

    def _enqueue(self, event: Notification) -> None:
        name = str(event.subject_id)
        stored = self._recheck_at_s.get(name, 0.0) > self._clock_s()
        if not stored and len(self._waiting) < MAX_WAITING:
            self._waiting.setdefault(name, event)

    async def _store(self) -> None:
        """Stores the enqueued events; those that cannot be stored now stay enqueued."""
        for name, event in list(self._waiting.items()):
            try:
                new = await self._outbox.add(event, self._webhooks)
            except DatabaseUnavailable as fault:
                log.info("notifications wait for the database", extra={"why": fault.reason})
                return
            except RowsRejected as fault:
                new = False
                log.warning("a notification cannot be kept", extra={"kind": event.kind, "why": fault.reason})
            if new:
                self._metrics.increment(_METRIC, "raised")
            if len(self._recheck_at_s) >= MAX_WAITING:
                self._recheck_at_s.clear()
            again_s = RECHECK_S if event.ends_at is None else inf
            self._recheck_at_s[name] = self._clock_s() + again_s
            self._waiting.pop(name, None)

    def _poll_sidecars(self) -> None:
        """Enqueues one event if no sidecar is live, else one for each that is unavailable for too long."""
        now_s, sidecars = self._clock_s(), self._sources.sidecars()
        unavailable: list[str | None] = [name for name, live in sidecars.items() if not live]
        if sidecars and len(unavailable) == len(sidecars):
            unavailable.append(None)
        self._unavailable_since = {name: self._unavailable_since.get(name, now_s) for name in unavailable}
        for name in [None] if None in unavailable else unavailable:
            if now_s - self._unavailable_since[name] > self._sources.sidecar_away_s:
                self._enqueue(sidecar_lost_notification(name, self._sources.sidecar_away_s))

    async def _delete_expired(self) -> None:
        try:
            await self._outbox.delete_expired()
        except (DatabaseUnavailable, RowsRejected) as fault:
            log.info("old notifications are not dropped yet", extra={"why": str(fault)})
