"""Notifications, on a real Postgres and a real receiver."""

import asyncio
import base64
import hashlib
import hmac
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from commands import run
from stages.admission.limiter_outages import OwnValkey
from webhook_receiver import WebhookReceiver, run_receiver

from llm_proxy.admission import PolicyDefaults
from llm_proxy.admission.limiter import LimitCheck, LimitPlan
from llm_proxy.admission.memory_backend import MemoryBackend
from llm_proxy.admission.policy_resolver import PolicyResolver
from llm_proxy.admission.redis.backend import RedisBackend
from llm_proxy.admission.settlements import SettlementQueue
from llm_proxy.admission.spending_watch import SpendingWatch
from llm_proxy.dialects.request.url_guard import is_private_host
from llm_proxy.edge.routes.notifications import webhook_errors
from llm_proxy.identity import Budget, Caller, LimitPolicy, PolicySnapshot
from llm_proxy.notify import (
    DeliveryFailed,
    Notifier,
    NotifierSources,
    Outbox,
    StoredNotification,
    Webhook,
    WebhookSender,
)
from llm_proxy.notify.event import FOREVER, Notification, refused_credentials_notification
from llm_proxy.notify.notifier import MIN_REFUSED_CREDENTIALS
from llm_proxy.settings import Settings
from llm_proxy.telemetry import Metrics

if TYPE_CHECKING:
    import asyncpg

Json = dict[str, Any]
SECRET = "whsec_" + base64.b64encode(b"only for this test, 24 bytes or more").decode()
NOON_MS = 1_800_000_000_000 // 86_400_000 * 86_400_000 + 43_200_000
DAY_MS = 86_400_000
RULE = LimitPolicy("tenant", budgets=(Budget(1_000_000_000, "day"),))


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    """Yields a listening receiver."""
    with run_receiver() as made:
        yield made


def delivery(*, within_s: float = 10.0, guarded: bool = False) -> WebhookSender:
    """Returns a sender."""
    return WebhookSender(
        (SECRET,), is_private_host if guarded else None, ssl.create_default_context(), within_s
    )


@dataclass
class Replica:
    """A notifier with budgets and sidecars that the test sets."""

    pool: "asyncpg.Pool[asyncpg.Record]"
    hooks: list[Webhook]
    now_ms: int = NOON_MS
    now_s: float = 0.0
    sidecars: dict[str, bool] = field(default_factory=dict[str, bool])
    within_s: float = 10.0
    shared: RedisBackend | None = None

    def __post_init__(self) -> None:
        self.store = MemoryBackend(lambda: self.now_ms)
        counts = self.shared or self.store
        self.spending = SpendingWatch(counts, SettlementQueue(counts, "test", 1))
        watched = NotifierSources(self.spending, lambda: self.sidecars)
        self.outbox = Outbox(self.pool)
        sends = delivery(within_s=self.within_s)
        self.notifier = Notifier(
            self.outbox, self.hooks, sends, watched, Metrics(), clock_s=lambda: self.now_s
        )

    def plan(self) -> LimitPlan:
        """Returns the limit checks of the call."""
        policies = PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot((RULE,)))
        return policies.resolve(Caller("key_1", "virtual", tenant="acme"), "m", self.now_ms)

    async def spend(self, nano_usd: int, *, refused: bool = False) -> LimitCheck:
        """Settles a call: so much of the day's budget is spent now."""
        plan = self.plan()
        [check] = plan.checks
        self.store.limiter.budgets.pop(check.key, None)
        await self.store.seed(check.key, nano_usd)
        self.spending.call_settled(plan)
        if refused:
            self.spending.budgets_exhausted([check])
        await self.look()
        return check

    async def look(self) -> None:
        """Polls twice: a budget's event is found by the second poll."""
        await self.notifier.poll()
        await self.notifier.poll()

    async def deliver(self) -> None:
        """Delivers what is due to every webhook."""
        await asyncio.gather(*(self.notifier.deliver(one) for one in self.hooks))


async def hurry(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Ends the pause of every delivery."""
    await pool.execute("UPDATE notification_deliveries SET next_try_at = now()")


async def test_budget_shares_and_exhaustion_are_sent_once_a_period(
    pool: "asyncpg.Pool[asyncpg.Record]", receiver: WebhookReceiver
) -> None:
    """With two replicas; again in the next period."""
    hooks = [Webhook("json", receiver.url())]
    both = [Replica(pool, hooks), Replica(pool, hooks)]

    async def notified(nano_usd: int, *, refused: bool = False) -> list[tuple[str, int | None]]:
        before = len(receiver.received)
        await asyncio.gather(*(one.spend(nano_usd, refused=refused) for one in both))
        await asyncio.gather(*(one.deliver() for one in both))
        new = [one.document for one in receiver.received[before:]]
        return sorted((one["type"], one["data"].get("share_percent")) for one in new)

    assert await notified(499_999_999) == []
    assert await notified(500_000_000) == [("budget.share", 50)]
    assert await notified(799_000_000) == []
    assert await notified(810_000_000) == [("budget.share", 80)]
    assert await notified(1_000_000_000, refused=True) == [("budget.exhausted", None), ("budget.share", 100)]
    assert await notified(1_200_000_000, refused=True) == []
    for one in both:
        one.now_ms += DAY_MS
    assert await notified(600_000_000) == [("budget.share", 50)]
    share = receiver.of("budget.share")[1]["data"]
    assert (share["spent"], share["limit"], share["tenant"]) == ("0.81", "1.00", "acme")
    assert "tenant acme is spent to 80 %: $0.81 of $1.00 a day" in share["message"]
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 5


async def test_delivery_is_retried_with_the_same_id(
    pool: "asyncpg.Pool[asyncpg.Record]", receiver: WebhookReceiver
) -> None:
    """After a 500, a redirect (not followed) and a timeout; every attempt has its own signature."""
    replica = Replica(pool, [Webhook("json", receiver.url())], within_s=0.2)
    receiver.answers += [500, 302, 0.5]
    await replica.spend(500_000_000)
    failures: list[str | None] = []
    for _ in range(5):
        await replica.deliver()
        failures.append(await pool.fetchval("SELECT last_failure FROM notification_deliveries"))
        await hurry(pool)
    answered = ["it answered 500", "it answered 302: redirects are not followed", "it did not answer in time"]
    assert failures == [*answered, None, None]
    assert len(receiver.received) == 4
    assert {one.path for one in receiver.received} == {"/hook"}
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 1
    for one in receiver.received:
        content = f"{one.headers['webhook-id']}.{one.headers['webhook-timestamp']}.".encode() + one.body
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        owed = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        assert one.headers["webhook-signature"] == f"v1,{owed}"
        assert one.document["id"] == one.headers["webhook-id"]
    [kept] = await replica.outbox.list_notifications(limit=9)
    [sent] = kept["deliveries"]
    assert (sent["attempts"], sent["last_failure"], sent["next_try_at"]) == (4, None, None)
    assert receiver.url() not in str(kept)


async def test_retry_pauses_grow_and_end_after_a_day(
    pool: "asyncpg.Pool[asyncpg.Record]", receiver: WebhookReceiver
) -> None:
    """Each pause is twice the last."""
    replica = Replica(pool, [Webhook("json", receiver.url())])
    receiver.answers += [503] * 9
    await replica.spend(500_000_000)
    pauses: list[float] = []
    for _ in range(3):
        await replica.deliver()
        pause = await pool.fetchval(
            "SELECT extract(epoch FROM next_try_at - now())::float FROM notification_deliveries"
        )
        pauses.append(pause)
        await hurry(pool)
    assert pauses == [pytest.approx(5, abs=2), pytest.approx(10, abs=2), pytest.approx(20, abs=2)]
    await pool.execute("UPDATE notifications SET created_at = now() - interval '24 hours'")
    await replica.deliver()
    await hurry(pool)
    await replica.deliver()
    assert len(receiver.received) == 4
    [kept] = await replica.outbox.list_notifications(limit=9)
    assert kept["deliveries"][0]["given_up_at"] is not None


async def test_claimed_delivery_is_sent_by_one_replica(
    pool: "asyncpg.Pool[asyncpg.Record]", receiver: WebhookReceiver
) -> None:
    """Of many replicas; after a claim has expired, another replica sends it."""
    hooks = [Webhook("json", receiver.url())]
    many = [Replica(pool, hooks) for _ in range(4)]
    await many[0].spend(1_000_000_000)
    await asyncio.gather(*(one.deliver() for one in many))
    assert sorted(one["data"]["share_percent"] for one in receiver.of("budget.share")) == [50, 80, 100]
    await many[0].spend(1_000_000_000, refused=True)
    [lost] = await many[1].outbox.claim(hooks[0].name)
    await many[2].deliver()
    assert receiver.of("budget.exhausted") == []
    await hurry(pool)
    await many[2].deliver()
    assert [one["id"] for one in receiver.of("budget.exhausted")] == [str(lost.message.event_id)]


async def test_rejected_credentials_are_sent_once_an_hour(
    pool: "asyncpg.Pool[asyncpg.Record]", receiver: WebhookReceiver
) -> None:
    """For each address; at most ten of a thousand addresses."""
    replica = Replica(pool, [Webhook("json", receiver.url())])
    await pool.execute("SELECT note_refused_credentials($1, $2, $3, $4, $5)",
                       [datetime.now(UTC)] * 2, ["192.0.2.1", "192.0.2.2"], ["/v1/models"] * 2, [""] * 2,
                       [MIN_REFUSED_CREDENTIALS, MIN_REFUSED_CREDENTIALS - 1])  # fmt: skip
    for _ in range(3):
        await replica.notifier.poll_credentials()
        await replica.look()
        await replica.deliver()
    assert [one["data"]["client_ip"] for one in receiver.of("credentials.refused")] == ["192.0.2.1"]
    await pool.execute("UPDATE notifications SET created_at = now() - interval '61 minutes'")
    replica.now_s += 61
    await replica.notifier.poll_credentials()
    await replica.look()
    await replica.deliver()
    assert len({one["id"] for one in receiver.of("credentials.refused")}) == 2
    new = [
        await replica.outbox.add(refused_credentials_notification(f"198.51.100.{n}", 99), ["x"])
        for n in range(20)
    ]
    assert new.count(True) == 9


async def test_lost_sidecar_is_sent_after_the_timeout(
    pool: "asyncpg.Pool[asyncpg.Record]", receiver: WebhookReceiver
) -> None:
    """One by its address, both as "no sidecar"; a sidecar that returns in time makes no event."""
    replica = Replica(pool, [Webhook("json", receiver.url())])

    async def notified(after_s: float, **sidecars: bool) -> list[str | None]:
        replica.now_s += after_s
        replica.sidecars = sidecars
        before = len(receiver.received)
        await replica.look()
        await replica.deliver()
        return [one.document["data"]["sidecar"] for one in receiver.received[before:]]

    assert await notified(0, one=False, two=True) == []
    assert await notified(59, one=False, two=True) == []
    assert await notified(1, one=True, two=True) == []
    assert await notified(1, one=False, two=True) == []
    assert await notified(61, one=False, two=True) == ["one"]
    assert await notified(61, one=False, two=True) == []
    assert await notified(1, one=False, two=False) == []
    assert await notified(61, one=False, two=False) == [None]
    assert await notified(61, one=False, two=False) == []


async def test_shares_reached_without_limits_store_are_sent_later(
    pool: "asyncpg.Pool[asyncpg.Record]", receiver: WebhookReceiver, own: OwnValkey
) -> None:
    """After many polls without the store."""
    store = RedisBackend(own.url, timeout_s=0.2)
    replica = Replica(pool, [Webhook("json", receiver.url())], shared=store)
    plan = replica.plan()
    [check] = plan.checks
    await store.start()
    try:
        own.kill()
        replica.spending.call_settled(plan)
        await replica.look()
        own.start()
        async with asyncio.timeout(20):
            while not store.is_available:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.02)
        await store.seed(check.key, 600_000_000)
        await replica.look()
        await replica.deliver()
    finally:
        await store.stop()
    assert [one["data"]["share_percent"] for one in receiver.of("budget.share")] == [50]


async def test_slack_and_teams_bodies_escape_names(
    receiver: WebhookReceiver,
) -> None:
    """A caller's name never becomes a mention or a link."""
    facts = {"deployment": "<!channel> [x](http://x)", "group": "g&h"}
    message = StoredNotification(uuid4(), "provider.credentials_refused", datetime.now(UTC), facts)
    for form in ("slack", "teams"):
        await delivery().send(Webhook(form, receiver.url(f"/{form}?sig=a%2Fb")), message)
    slack, teams = receiver.received
    assert (slack.path, teams.path) == ("/slack?sig=a%2Fb", "/teams?sig=a%2Fb")
    assert "&lt;!channel&gt; [x](http://x) (g&amp;h)" in slack.document["text"]
    [attachment] = teams.document["attachments"]
    assert (teams.document["type"], attachment["contentType"]) == (
        "message",
        "application/vnd.microsoft.card.adaptive",
    )
    [run_of_text] = attachment["content"]["body"][0]["inlines"]
    assert (attachment["content"]["type"], run_of_text["type"]) == ("AdaptiveCard", "TextRun")
    assert "webhook-signature" not in slack.headers


async def test_a_body_has_a_signature_of_each_secret_of_a_rotation(receiver: WebhookReceiver) -> None:
    """So that a receiver with either secret takes it."""
    sender = WebhookSender((SECRET, "the old one"), None, ssl.create_default_context())
    await sender.send(
        Webhook("json", receiver.url()), StoredNotification(uuid4(), "test", datetime.now(UTC), {})
    )
    [one] = receiver.received
    content = f"{one.headers['webhook-id']}.{one.headers['webhook-timestamp']}.".encode() + one.body
    keys = (base64.b64decode(SECRET.removeprefix("whsec_")), b"the old one")
    owed = (base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys)
    assert one.headers["webhook-signature"] == " ".join(f"v1,{each}" for each in owed)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001"])
async def test_private_address_is_rejected_when_connecting(receiver: WebhookReceiver, host: str) -> None:
    """For any host that resolves to it; nothing is sent."""
    webhook = Webhook("json", receiver.url().replace("127.0.0.1", host))
    message = StoredNotification(uuid4(), "test", datetime.now(UTC), {})
    with pytest.raises(DeliveryFailed, match="private network"):
        await delivery(guarded=True).send(webhook, message)
    assert receiver.received == []


def test_unsafe_webhooks_stop_the_start() -> None:
    """Private address, no secret in production, no database: the error names the fault, not the address."""
    url = "https://10.1.2.3/hook/token-of-slack"
    faults = webhook_errors(Settings.model_validate({"notify_webhooks": f"slack={url},json={url}"}))
    assert len(faults) == 4
    assert not any("10.1.2.3" in one or "token" in one for one in faults)
    allowed = {
        "notify_webhooks": f"json={url}",
        "notify_allow_private": True,
        "notify_secret": SECRET,
        "database_url": "postgres://x@127.0.0.1/x",
    }
    assert webhook_errors(Settings.model_validate(allowed)) == []
    assert webhook_errors(Settings.model_validate({})) == []


async def test_erasure_removes_the_users_name(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """From stored events and from pending deliveries."""
    replica = Replica(pool, [])
    rule = LimitPolicy("user_model", budgets=(Budget(1, "total"),))
    plan = PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot((rule,))).resolve(
        Caller("key_1", "virtual", tenant="acme", user="ada@example.org"), "m", NOON_MS
    )
    replica.spending.budgets_exhausted(plan.checks)
    await replica.look()
    [before] = await replica.outbox.list_notifications(limit=9)
    assert "user ada@example.org at m (tenant acme)" in before["data"]["message"]
    await pool.execute(
        "INSERT INTO erasures (id, tenant, salt, digest, pseudonym, name, asked_at)"
        " VALUES (gen_random_uuid(), 'acme', '', '', 'erased-1', 'ada@example.org', now())"
    )
    [after] = await replica.outbox.list_notifications(limit=9)
    assert (after["data"]["user"], "ada" in str(after)) == ("erased-1", False)


async def test_expired_notifications_are_deleted_after_their_period(
    pool: "asyncpg.Pool[asyncpg.Record]",
) -> None:
    """Otherwise a total budget's event would be sent again every month."""
    replica = Replica(pool, [])
    check = await replica.spend(500_000_000)
    await pool.execute("UPDATE notifications SET keep_until = now() - interval '1 second'")
    total = Notification("budget.share", f"{check.key} total", {"scope": "global"}, ends_at=FOREVER)
    await replica.outbox.add(total, [])
    await replica.outbox.delete_expired()
    rows = await pool.fetch(
        "SELECT event_id, keep_until > now() + interval '1000 years' AS forever FROM notifications"
    )
    assert [(row["event_id"], row["forever"]) for row in rows] == [(total.subject_id, True)]


async def test_notify_test_command_reaches_each_webhook(receiver: WebhookReceiver, database_url: str) -> None:
    """Prints the results without addresses; exits with 1 if a delivery failed."""
    command = partial(
        run,
        database_url,
        "notify",
        "test",
        LLM_PROXY__ENVIRONMENT="development",
        LLM_PROXY__NOTIFY_WEBHOOKS=f"json={receiver.url('/a')},slack={receiver.url('/b')}",
        LLM_PROXY__NOTIFY_ALLOW_PRIVATE="true",
    )
    notified = await command()
    assert notified.count("it answered 204") == 2
    assert "/a" not in notified
    assert {one.path for one in receiver.received} == {"/a", "/b"}
    receiver.answers += [500, 500]
    assert "it answered 500" in await command("--json", code=1)
    assert "private network" in await command(LLM_PROXY__NOTIFY_ALLOW_PRIVATE="false", code=2)
