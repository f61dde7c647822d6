"""What a key may ask for a key below it, and what it gets: never more than it has itself.

Pure. Invariants: a field that is not requested is as in the parent; a child has an end, at most `MAX_LIFE`
away and not after its parent's; what would be wider than any key above is rejected by its name, although
`key_chain` would narrow it anyway.
Raises: `BadRequest`, `Forbidden`, `StoreUnavailable` (the models are not known yet).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from llm_proxy.errors import BadRequest, Forbidden, models_not_read
from llm_proxy.identity.admin_documents import parse_key_spec, parse_name_field
from llm_proxy.identity.caller import ANY, Caller, KeyAbove, foreign_name_error, merge_tags
from llm_proxy.identity.key_chain import MAX_DEPTH
from llm_proxy.identity.policies import CATALOG_RETRY_S, ModelNames, may_use_model
from llm_proxy.identity.virtual_keys import KeySpec

DEFAULT_LIFE, MAX_LIFE = timedelta(hours=1), timedelta(days=7)
CHILD_FIELDS = frozenset({
    "name", "agent", "user", "models", "rpm", "tpm", "parallel", "budgets", "max_tokens_cap", "cache", "tags",
    "run", "expires_in_s",
})  # fmt: skip
_LIMITS = ("rpm", "tpm", "parallel")


@dataclass(frozen=True, slots=True)
class ServedNames:
    """The models by which lists are judged, and the list of callers without one."""

    models: ModelNames | None
    default_models: tuple[str, ...] = ()


def child_spec(
    parent: Caller, ends_at: datetime | None, requested: Mapping[str, Any], now: datetime, served: ServedNames
) -> tuple[KeySpec, str | None]:
    """Returns the specification of a child, without its name's end, and its run.

    Args:
        parent: The caller of the parent, its binding as the key has it.
        ends_at: When the parent ends, or a key above it.
        requested: The request's fields.
        now: The time.
        served: What the sidecars serve.
    """
    if unknown := [name for name in requested if name not in CHILD_FIELDS]:
        raise BadRequest(f"Unknown field {unknown[0][:100]!r}.", param=unknown[0][:100])
    if len(parent.above) >= MAX_DEPTH:
        raise Forbidden(f"At most {MAX_DEPTH} keys can be below each other.", code="too_deep")
    fields = {name: value for name, value in requested.items() if name not in {"run", "expires_in_s"}}
    spec = parse_key_spec({"name": "child", **fields})
    spec = replace(
        spec,
        tenant=parent.tenant,
        agent=_bound("agent", spec.agent, parent.agent, free=ANY),
        user=_bound("user", spec.user, parent.user, free=None),
        expires_at=_expires_at(requested.get("expires_in_s"), ends_at, now),
    )
    merge_tags((*parent.tags, *spec.tags), "tags")
    _reject_wider_models(spec, parent, served)
    for above in parent.above:
        _reject_wider_limits(spec, above)
    _reject_wider_limits(spec, parent)
    return spec, _bound("run", parse_name_field(requested, "run"), parent.bound_run, free=None)


def _bound(field: str, wanted: str | None, own: str | None, *, free: str | None) -> str | None:
    """Returns what a child is bound to; a parent that is bound to `free` leaves the choice."""
    if wanted is None or wanted == own:
        return own
    if own != free:
        raise foreign_name_error(field, own)
    return wanted


def _expires_at(wanted_s: Any, ends_at: datetime | None, now: datetime) -> datetime:  # noqa: ANN401 -- unchecked JSON
    """Returns when a child ends: as the request says, or in an hour, and no later than its parent."""
    most_s = int(MAX_LIFE.total_seconds())
    if wanted_s is None:
        end = now + DEFAULT_LIFE
        return end if ends_at is None else min(end, ends_at)
    if not isinstance(wanted_s, int) or isinstance(wanted_s, bool) or not 1 <= wanted_s <= most_s:
        raise BadRequest(f"Invalid 'expires_in_s': expected 1 to {most_s} seconds.", param="expires_in_s")
    end = now + timedelta(seconds=wanted_s)
    if ends_at is not None and end > ends_at:
        raise _wider("expires_in_s")
    return end


def _reject_wider_models(spec: KeySpec, parent: Caller, served: ServedNames) -> None:
    """Rejects a name or wildcard that the lists above do not cover as a whole."""
    names = served.models
    configured, resolve = (names.names, names.resolved) if names is not None else ((), None)
    for one in spec.models or ():
        allowed = may_use_model(parent, served.default_models, configured, one, resolve)
        if allowed is None:
            raise models_not_read(CATALOG_RETRY_S)
        if not allowed:
            raise _wider("models")


def _reject_wider_limits(spec: KeySpec, above: Caller | KeyAbove) -> None:
    for name in _LIMITS:
        own, most = getattr(spec.limits, name), getattr(above.limits, name)
        if most and own is not None and not 0 < own <= most:
            raise _wider(name)
    budgets = {(one.unit, one.period): one.limit for one in above.budgets}
    if any(one.limit > budgets.get((one.unit, one.period), one.limit) for one in spec.budgets):
        raise _wider("budgets")
    cap = above.max_tokens_cap
    if cap is not None and spec.max_tokens_cap is not None and spec.max_tokens_cap > cap:
        raise _wider("max_tokens_cap")


def _wider(field: str) -> Forbidden:
    message = f"Invalid '{field}': a child key may not be wider than the keys above it."
    return Forbidden(message, param=field, code="wider_than_parent")
