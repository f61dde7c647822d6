"""The noun identity makes: who is calling, what they may use, and how much.

Invariants: frozen; a key is named by its id and prefix, never by its text; None in a binding means
"not bound", None in a limit means "no limit of this scope's own".
Units: requests and tokens per minute, parallel requests, integer nano-dollars.
"""

from dataclasses import dataclass, field
from typing import Literal

ANY = "*"
"""Every value of a field."""
Kind = Literal["internal", "virtual"]
Period = Literal["day", "month", "total"]
ScopeKind = Literal["key", "agent", "tenant", "user_model", "tenant_group", "global", "provider"]
OF_ALL: frozenset[ScopeKind] = frozenset({"global", "provider"})
"""Scopes that count the calls of several tenants together."""
PER: dict[Period, str] = {"day": " a day", "month": " a month", "total": ""}
"""A budget's period, behind its amount."""
Mode = Literal["enforce", "shadow", "off"]
OnStoreFailure = Literal["deny", "local", "allow"]
Unit = Literal["usd", "requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests a minute, tokens a minute, and requests at once; None means no limit."""

    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Use allowed in a calendar period.

    Attributes:
        limit: In nano-dollars, requests or tokens, by the unit.
        zone: The time zone (IANA) in whose calendar the period begins and ends.
        laid_us: Since when it counts every call, in microseconds since 1970; 0: not known. A changed limit
            keeps it.
    """

    limit: int
    period: Period
    zone: str = "UTC"
    unit: Unit = "usd"
    laid_us: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Named:
    """Whom a request says it acts for, by body or header; all optional."""

    tenant: str | None = None
    agent: str | None = None
    user: str | None = None
    session: str | None = None
    channel: str | None = None
    run: str | None = None
    tags: tuple[str, ...] = ()


NOBODY = Named()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a call is admitted and billed to.

    Attributes:
        key_id: Stable id of the key or internal secret (never its text); the `key` scope of limits.
        kind: `internal` secrets may act for anybody; `virtual` keys only within their binding.
        models: Allowed model groups, names or wildcards (`gpt-*`); None means the default allow-list.
        limits: The key's own limits.
        budgets: The key's own budgets.
        max_tokens_cap: Highest `max_tokens` a request may ask for; None means no cap.
        cache: False when the key has response caching switched off.
        revocation_epoch: The epoch at which this identity was read; admission refuses an older one.
        tags: The key's own and the call's.
    """

    key_id: str
    kind: Kind
    tenant: str | None = None
    agent: str | None = None
    user: str | None = None
    session: str | None = None
    channel: str | None = None
    key_prefix: str = ""
    models: tuple[str, ...] | None = None
    limits: Limits = Limits()
    budgets: tuple[Budget, ...] = ()
    max_tokens_cap: int | None = None
    cache: bool = True
    revocation_epoch: int = 0
    run: str | None = None
    tags: tuple[str, ...] = ()
