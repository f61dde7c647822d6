"""A caller's share: the most specific rule's weight, the lowest class that a rule allows."""

from dataclasses import replace

import pytest

from llm_proxy.errors import BadRequest
from llm_proxy.identity import Caller, LimitPolicy, PolicySnapshot, PolicySource, PolicyWatcher, QueueShare
from llm_proxy.identity.admin_documents import parse_policy, policy_document
from llm_proxy.identity.caller import KeyAbove
from llm_proxy.identity.queue_shares import DEFAULT_WEIGHT, QueueShares, resolve_share

CALLER = Caller("k-1", "virtual", "acme")


def rule(scope: str, subject: str = "*", **fields: object) -> LimitPolicy:
    """A rule as the admin API takes it; a tenant's `subject` is the tenant."""
    name = {"tenant": subject} if scope == "tenant" else {"subject": subject}
    named = {} if subject == "*" else name
    return parse_policy({"scope": scope, **named, **fields})


@pytest.mark.parametrize(
    ("rules", "share"),
    [
        ((), QueueShare("acme", "k-1")),
        ((rule("tenant", "acme", weight=300),), QueueShare("acme", "k-1", 300)),
        (
            (rule("tenant", "acme", weight=300), rule("tenant", weight=50), rule("key", weight=7)),
            QueueShare("acme", "k-1", 300, 7),
        ),
        ((rule("tenant", "other", weight=300), rule("key", "k-2", weight=9)), QueueShare("acme", "k-1")),
        (
            (rule("key", weight=5), rule("key", "k-1", priority="batch")),
            QueueShare("acme", "k-1", 100, 5, is_batch=True),
        ),
        ((rule("tenant", priority="batch"),), QueueShare("acme", "k-1", is_batch=True)),
        (
            (rule("tenant", priority="batch"), rule("tenant", "acme", priority="interactive")),
            QueueShare("acme", "k-1"),
        ),
        (
            (rule("tenant", "acme", priority="batch"), rule("key", "k-1", priority="interactive")),
            QueueShare("acme", "k-1", is_batch=True),
        ),
        (
            (rule("tenant", weight=9, mode="shadow"), rule("key", priority="batch", mode="off")),
            QueueShare("acme", "k-1"),
        ),
    ],
)
def test_the_most_specific_rule_holds_and_no_rule_raises_what_another_lowers(
    rules: tuple[LimitPolicy, ...], share: QueueShare
) -> None:
    """Tenant and key by name before the defaults; a class only as high as both allow."""
    assert resolve_share(rules, CALLER) == share


async def test_a_caller_lowers_its_class_and_a_changed_rule_holds_at_once() -> None:
    """It never raises it; the shares follow the watcher's snapshot."""

    class Source(PolicySource):
        snapshot = PolicySnapshot((rule("key", "k-1", priority="batch"),), epochs={"*": 1})

        async def fetch_policies(self, known_epoch: int) -> PolicySnapshot | None:
            return self.snapshot if known_epoch < self.snapshot.newest_epoch else None

    source = Source()
    watcher = PolicyWatcher(source)
    await watcher.refresh()
    shares = QueueShares(watcher)
    assert shares.share_of(CALLER).is_batch
    source.snapshot = PolicySnapshot((rule("key", "k-1", weight=5),), epochs={"*": 2})
    await watcher.refresh()
    assert shares.share_of(CALLER) == QueueShare("acme", "k-1", key_weight=5)
    assert shares.share_of(CALLER, wants_batch=True).is_batch
    assert shares.share_of(Caller("i", "internal")) == QueueShare("", "i", DEFAULT_WEIGHT)


def test_a_child_is_in_no_higher_class_than_any_key_of_its_chain() -> None:
    """It may be in a lower one alone; its weight is the root's."""
    above = tuple(KeyAbove(one, "sk", "acme") for one in ("k-1", "c-1"))
    child = replace(CALLER, key_id="c-2", above=above)
    for batch in ((), ("k-1",), ("c-1",), ("c-2",)):
        rules = tuple(rule("key", one, priority="batch") for one in batch)
        share = resolve_share((*rules, rule("key", "k-1", weight=7), rule("key", "c-2", weight=9)), child)
        assert (share.key_id, share.key_weight, share.is_batch) == ("k-1", 7, bool(batch))
    lifted = (rule("key", "*", priority="batch"), rule("key", "c-2", priority="interactive"))
    assert resolve_share(lifted, child).is_batch
    assert not resolve_share((rule("key", "c-2", priority="batch"),), CALLER).is_batch


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"scope": "agent", "weight": 5}, "weight"),
        ({"scope": "global", "priority": "batch"}, "priority"),
        ({"scope": "tenant", "weight": 0}, "weight"),
        ({"scope": "tenant", "weight": 10_001}, "weight"),
        ({"scope": "key", "priority": "urgent"}, "priority"),
    ],
)
def test_a_wrong_share_is_rejected_by_its_name(fields: dict[str, object], at_fault: str) -> None:
    """And a right one is written as it was read."""
    with pytest.raises(BadRequest) as error:
        parse_policy(fields)
    assert error.value.param == at_fault
    document = policy_document(rule("tenant", "acme", weight=5, priority="batch"))
    assert (document["weight"], document["priority"]) == (5, "batch")
    assert parse_policy(document) == rule("tenant", "acme", weight=5, priority="batch")
