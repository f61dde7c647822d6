"""The rules of `Idempotency-Key`: who a key belongs to, what becomes of its claim, which answers are kept.

Pure; `redis/lua/idempotency.lua` does the same. A claim is absent, running (a lease that its call renews),
stored or gone, and after its time absent again. Invariants: at most one call holds it, and only that call may
end it; while it is stored or gone no call runs; neither key nor body can be read from what is stored. Source:
draft-ietf-httpapi-idempotency-key-header-07; RFC 8941, 3.3.3. Units: `_ms` on the store's clock.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llm_proxy.errors import APIError, BadRequest, GuardrailRejected, ProviderRejected
from llm_proxy.identity import Caller

HEADER = "Idempotency-Key"
MAX_KEY_CHARS = 255
_STRING = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE = re.compile(rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
_ESCAPED = re.compile(r'\\(["\\])')
_FAULTS_OF_THE_REQUEST = frozenset({400, 413, 415, 422})

ClaimState = Literal["running", "stored", "gone"]
Verdict = Literal["yours", "reused", "running", "stored", "gone", "lost"]
"""What a claimant gets: `yours`, it holds the claim; `reused`, the key is another request's; `lost`, the call
that it names holds it no longer; else the state of the claim."""


def parse_key(value: bytes) -> str:
    """Returns the key of a header's value: a quoted string, or as most clients send it, a bare word.

    Raises `BadRequest`.
    """
    found = _STRING.fullmatch(value)
    bare = found is None and _BARE.fullmatch(value) is not None
    key = _ESCAPED.sub(r"\1", found[1].decode("ascii")) if found else value.decode("latin-1") if bare else ""
    if not 0 < len(key) <= MAX_KEY_CHARS:
        raise BadRequest(
            f"Invalid '{HEADER}': 1 to {MAX_KEY_CHARS} visible ASCII characters, bare or as a quoted string.",
            param=HEADER,
            code="invalid_idempotency_key",
        )
    return key


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """One request with a key.

    Attributes:
        claim: Names the claim in the store: a digest of the caller and the key.
        fingerprint: A digest of the request; another one with the same claim is another request.
        secret: What the answer is sealed with; only key and request together yield it. It is never stored.
    """

    claim: str
    fingerprint: str
    secret: bytes


def identify(key: str, caller: Caller, request: Iterable[bytes]) -> IdempotentRequest:
    """Returns a request by its key, its caller, and the parts that distinguish it from others.

    A key is its caller's own: that of an API key, and of a tenant and a user below it.
    """
    owner = (caller.key_id, caller.tenant or "", caller.user or "")
    named = [one.encode("utf-8", "surrogatepass") for one in (*owner, key)]
    claim, content = _digest(b"claim", named), _digest(b"request", request)
    fingerprint = _digest(b"fingerprint", (claim.encode(), content.encode()))
    return IdempotentRequest(claim, fingerprint[:32], b"\n".join((key.encode(), content.encode())))


def _digest(purpose: bytes, parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256(b"llm-proxy idempotency " + purpose)
    for part in parts:
        digest.update(b"\n%d\n" % len(part))
        digest.update(part)
    return digest.hexdigest()


def would_come_again(error: APIError) -> bool:
    """Whether an error answers the request itself, and is kept: sent again, it would fail the same way.

    It is a provider's or a guardrail's, with a status that blames the request: not a limit, a timeout, a
    missing model or a right, which the next try, or the operator, may change.
    """
    return isinstance(error, ProviderRejected | GuardrailRejected) and error.status in _FAULTS_OF_THE_REQUEST


class Claim(NamedTuple):
    """A claim as it is stored.

    Attributes:
        call: The id of the call that holds it.
        until_ms: When it ends: its lease while it runs, else the time for which its answer is kept.
        heard_ms: When a caller last listened to its call from elsewhere; 0 for never.
    """

    fingerprint: str
    call: str
    state: ClaimState
    until_ms: int
    heard_ms: int = 0


class ClaimReply(NamedTuple):
    """What the store replies.

    Attributes:
        call: The call that holds the claim.
        left_ms: The time until it ends.
        heard_ago_ms: The time since a caller listened from elsewhere; -1 for never.
    """

    verdict: Verdict
    call: str = ""
    left_ms: int = 0
    heard_ago_ms: int = -1


Step = tuple[ClaimReply, Claim | None]


def claim(found: Claim | None, fingerprint: str, call: str, now_ms: int, lease_ms: int) -> Step:
    """A request comes: it gets the claim if no call has it."""
    found = _living(found, now_ms)
    if found is None:
        made = Claim(fingerprint, call, "running", now_ms + lease_ms)
        return _reply("yours", made, now_ms), made
    if found.fingerprint != fingerprint:
        return _reply("reused", found, now_ms), found
    return _heard(found, now_ms)


def listen(found: Claim | None, call: str, now_ms: int) -> Step:
    """A caller waits for the answer of a call elsewhere, which shall go on."""
    found = _living(found, now_ms)
    if found is None or found.call != call:
        return _lost(found, now_ms), found
    return _heard(found, now_ms)


def renew(found: Claim | None, fingerprint: str, call: str, now_ms: int, lease_ms: int) -> Step:
    """The call goes on; a claim that no other call has taken since it ended is its own again."""
    found = _living(found, now_ms)
    if found is not None and (found.call != call or found.state != "running"):
        return _lost(found, now_ms), found
    made = Claim(fingerprint, call, "running", now_ms + lease_ms, found.heard_ms if found else 0)
    return _reply("yours", made, now_ms), made


def finish(
    found: Claim | None, fingerprint: str, call: str, now_ms: int, keep_ms: int, state: ClaimState
) -> Step:
    """The call has ended, and its answer is stored, or gone."""
    found = _living(found, now_ms)
    if found is not None and found.call != call:
        return _lost(found, now_ms), found
    made = Claim(fingerprint, call, state, now_ms + keep_ms)
    return _reply(state, made, now_ms), made


def release(found: Claim | None, call: str, now_ms: int) -> Step:
    """The call has ended with nothing to keep: the next one with this key runs anew."""
    found = _living(found, now_ms)
    return _lost(found, now_ms), None if found is not None and found.call == call else found


def is_abandoned(reply: ClaimReply, lease_ms: int) -> bool:
    """Whether a running call seems to have died: it renews its lease long before half of it is left."""
    return reply.verdict == "running" and reply.left_ms < lease_ms // 2


def _living(found: Claim | None, now_ms: int) -> Claim | None:
    return found if found is not None and found.until_ms > now_ms else None


def _heard(found: Claim, now_ms: int) -> Step:
    if found.state == "running":
        found = found._replace(heard_ms=now_ms)
    return _reply(found.state, found, now_ms), found


def _lost(found: Claim | None, now_ms: int) -> ClaimReply:
    return ClaimReply("lost") if found is None else _reply("lost", found, now_ms)


def _reply(verdict: Verdict, held: Claim, now_ms: int) -> ClaimReply:
    heard_ago = now_ms - held.heard_ms if held.heard_ms else -1
    return ClaimReply(verdict, held.call, held.until_ms - now_ms, heard_ago)
