"""The rules of `Idempotency-Key`: its value, whose it is, and any history of one claim."""

import contextlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.admission import idempotency as rules
from llm_proxy.errors import (
    APIError,
    BadRequest,
    Forbidden,
    GuardrailRejected,
    InternalError,
    ModelNotFound,
    ProviderRejected,
    RateLimited,
    UpstreamTimeout,
)
from llm_proxy.identity import Caller

LEASE_MS, KEEP_MS = 15_000, 3_600_000
VISIBLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)


@given(key=VISIBLE)
def test_a_quoted_string_is_what_was_quoted(key: str) -> None:
    """As RFC 8941 writes it."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    assert rules.parse_key(f'"{escaped}"'.encode()) == key


@given(value=st.binary(max_size=300))
def test_any_value_is_a_key_of_visible_characters_or_rejected(value: bytes) -> None:
    """Whatever is sent."""
    key = "rejected"
    with contextlib.suppress(BadRequest):
        key = rules.parse_key(value)
    assert 1 <= len(key) <= rules.MAX_KEY_CHARS
    assert key.isascii()
    assert key.isprintable()


def test_a_bare_word_and_the_same_word_quoted_are_one_key() -> None:
    """Most clients send it bare."""
    assert rules.parse_key(b"stainless-retry-1f") == rules.parse_key(b'"stainless-retry-1f"')


_NAME = st.sampled_from(["", "a", "ab", "b", "1", "a\n1"])


@given(st.lists(st.tuples(_NAME, _NAME, _NAME, _NAME, st.lists(_NAME, max_size=3)), min_size=2, max_size=2))
def test_each_caller_has_keys_of_its_own_and_each_request_a_fingerprint(
    requests: list[tuple[str, str, str, str, list[str]]],
) -> None:
    """No part runs into the next."""
    made: list[rules.IdempotentRequest] = []
    for key_id, tenant, user, key, parts in requests:
        caller = Caller(key_id, "virtual", tenant=tenant or None, user=user or None)
        made.append(rules.identify(key, caller, [one.encode() for one in parts]))
    one, other = made
    owners = [request[:4] for request in requests]
    assert (one.claim == other.claim) is (owners[0] == owners[1])
    assert (one.fingerprint == other.fingerprint) is (requests[0] == requests[1])
    assert (one.secret == other.secret) is (requests[0][3:] == requests[1][3:])


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ProviderRejected("The prompt is too long."), True),
        (GuardrailRejected("No."), True),
        (RateLimited("Wait."), False),
        (Forbidden("No."), False),
        (ModelNotFound("Which?"), False),
        (UpstreamTimeout("Late."), False),
        (InternalError(), False),
    ],
)
def test_of_errors_those_are_kept_that_blame_the_request(error: APIError, *, kept: bool) -> None:
    """Others may be mended by the next try, or by the operator."""
    assert rules.would_come_again(error) is kept


@pytest.mark.parametrize(
    ("status", "kept"), [(400, True), (422, True), (403, False), (404, False), (409, False)]
)
def test_of_a_providers_rejections_its_status_decides(status: int, *, kept: bool) -> None:
    """A missing model or right is the setup's."""
    error = ProviderRejected("no")
    error.status = status
    assert rules.would_come_again(error) is kept


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(0, 3), st.sampled_from(["f", "g"])),
        st.tuples(st.just("listen"), st.integers(0, 3)),
        st.tuples(st.just("renew"), st.integers(0, 3)),
        st.tuples(st.just("finish"), st.integers(0, 3), st.sampled_from(["stored", "gone"])),
        st.tuples(st.just("release"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.sampled_from([1, 5_000, LEASE_MS - 1, LEASE_MS, KEEP_MS, KEEP_MS + 1])),
    ),
    max_size=40,
)


@dataclass(slots=True)
class History:
    """One claim, and what its calls may believe.

    Attributes:
        leases: Until when each call believes that it is the only one.
        fingerprints: What each call sent.
        final: Until when no call may run, because the answer is stored or gone.
    """

    now_ms: int = 1_800_000_000_000
    claim: rules.Claim | None = None
    leases: dict[int, int] = field(default_factory=dict[int, int])
    fingerprints: dict[int, str] = field(default_factory=dict[int, str])
    final: int = 0

    def play(self, step: tuple[object, ...]) -> None:
        """Plays one step, as gateways do: only a call that was given the claim renews or ends it."""
        name, call = step[0], step[1]
        assert isinstance(call, int)
        if name == "wait":
            self.now_ms += call
        elif name == "claim":
            self._claim(call, str(step[2]))
        elif name == "listen":
            reply, self.claim = rules.listen(self.claim, str(call), self.now_ms)
            assert reply.verdict in {"lost", "running", "stored", "gone"}
        elif call in self.leases:
            self._own(str(name), call, step)

    def _claim(self, call: int, fingerprint: str) -> None:
        if call in self.leases:
            return  # a call claims once
        found, self.claim = rules.claim(self.claim, fingerprint, str(call), self.now_ms, LEASE_MS)
        if found.verdict == "yours":
            assert not [one for one, until in self.leases.items() if until > self.now_ms]
            assert self.now_ms >= self.final
            self.leases[call], self.fingerprints[call] = self.now_ms + LEASE_MS, fingerprint
        elif found.verdict == "reused":
            assert self.claim is not None
            assert self.claim.fingerprint != fingerprint

    def _own(self, name: str, call: int, step: tuple[object, ...]) -> None:
        fingerprint = self.fingerprints[call]
        if name == "renew":
            reply, self.claim = rules.renew(self.claim, fingerprint, str(call), self.now_ms, LEASE_MS)
            if reply.verdict == "yours":
                self.leases[call] = self.now_ms + LEASE_MS
            else:
                assert self.leases.pop(call) <= self.now_ms  # only after its lease
            return
        del self.leases[call]
        if name == "release":
            _, self.claim = rules.release(self.claim, str(call), self.now_ms)
            return
        state: rules.ClaimState = "gone" if step[2] == "gone" else "stored"
        reply, self.claim = rules.finish(self.claim, fingerprint, str(call), self.now_ms, KEEP_MS, state)
        if reply.verdict == state:
            self.final = self.now_ms + KEEP_MS


@given(history=STEPS)
def test_in_any_history_at_most_one_call_runs_and_none_after_the_answer(
    history: list[tuple[object, ...]],
) -> None:
    """Whatever expires, is renewed, released, finished or claimed again."""
    played = History()
    for step in history:
        played.play(step)


def test_a_call_that_no_longer_renews_is_taken_for_dead_before_its_lease_ends() -> None:
    """So that no caller waits for it longer than half a lease."""
    running = rules.ClaimReply("running", "c", LEASE_MS // 2 - 1)
    assert rules.is_abandoned(running, LEASE_MS)
    assert not rules.is_abandoned(running._replace(left_ms=LEASE_MS // 2), LEASE_MS)
    assert not rules.is_abandoned(running._replace(verdict="stored"), LEASE_MS)
