"""Who calls, what the call is attributed to, and the limits and tags a caller carries.

Pure. Invariants: `Caller` and its parts are frozen; a key is named by its id and prefix, never by its text.
`None` in a binding means "not bound", `None` in a limit means "no own limit". An internal key may act for
any tenant, agent or user; a virtual key only within its binding. A tag has 1 to 50 printable characters
without a comma; a call has at most 10 tags. Units: per minute, parallel requests, nano-dollars.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from llm_proxy.errors import BadRequest, Forbidden

ANY = "*"
"""Matches every value of a field."""
MAX_NAME_CHARS = 256
MAX_TAGS = 10
MAX_TAG_CHARS = 50
Tags = tuple[str, ...]
CallerKind = Literal["internal", "virtual"]
Period = Literal["day", "week", "month", "total"]
ScopeKind = Literal["key", "agent", "tenant", "user_model", "tenant_group", "global", "provider", "run"]
SHARED_SCOPES: frozenset[ScopeKind] = frozenset({"global", "provider"})
"""Scopes whose counters add up the calls of several tenants."""
PERIOD_SUFFIX: dict[Period, str] = {"day": " a day", "week": " a week", "month": " a month", "total": ""}
"""The text that follows a budget's amount: `$5 a day`."""
Priority = Literal["interactive", "batch"]
"""The class of a call in the queue; the first comes first."""
PolicyMode = Literal["enforce", "shadow", "off"]
OnStoreFailure = Literal["deny", "local", "allow"]
BudgetUnit = Literal[
    "usd", "requests", "tokens", "images", "audio_seconds", "characters", "search_units", "turns"
]
"""What a budget counts; turns only a run's."""
_NAME_HEADERS = (b"x-tenant-id", b"x-agent-id", b"x-user-id", b"x-session-id", b"x-run-id")
_TAGS_HEADER = b"x-tags"
_ATTRIBUTION_HEADERS = frozenset({*_NAME_HEADERS, _TAGS_HEADER})


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests a minute, tokens a minute and parallel requests; None means no own limit, 0 unlimited."""

    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """The use that is allowed in a calendar period.

    Attributes:
        limit: In what `unit` counts: nano-dollars for money, milliseconds for seconds of audio.
        zone: The IANA time zone in whose calendar the period begins and ends.
        counting_since_us: When the budget began to count every call, in microseconds since 1970; 0 means
            unknown. A change of `limit` keeps it.
    """

    limit: int
    period: Period
    zone: str = "UTC"
    unit: BudgetUnit = "usd"
    counting_since_us: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Attribution:
    """Tenant, agent, user, session, channel, run and tags that a request names, in its headers or body.

    Attributes:
        presumed_user: A user that a client made up for its account or device: used where nothing else names
            one, so that a key bound to a user keeps its own.
    """

    tenant: str | None = None
    agent: str | None = None
    user: str | None = None
    session: str | None = None
    channel: str | None = None
    run: str | None = None
    tags: Tags = ()
    presumed_user: str | None = None


NO_ATTRIBUTION = Attribution()


@dataclass(frozen=True, slots=True)
class KeyAbove:
    """A key above a child key, and what it allows; its fields are those of a `Caller`."""

    key_id: str
    key_prefix: str
    tenant: str | None = None
    agent: str | None = None
    user: str | None = None
    models: tuple[str, ...] | None = None
    limits: Limits = Limits()
    budgets: tuple[Budget, ...] = ()
    max_tokens_cap: int | None = None
    cache: bool = True
    tags: Tags = ()
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The key, tenant, agent and user that a call is admitted for and billed to.

    Attributes:
        key_id: Stable id of the virtual or internal key, never its text; the `key` scope of limits.
        kind: `internal` keys may act for any tenant, agent and user, `virtual` keys within their binding.
        key_prefix: The public beginning of the key, as it may be shown.
        models: Names and wildcards (`gpt-*`) of the allowed model groups; None means the default list.
        limits: The key's own limits.
        budgets: The key's own budgets.
        max_tokens_cap: The highest `max_tokens` of a request; None means no cap.
        cache: False when response caching is disabled for the key.
        revocation_epoch: The tenant's epoch at which the key was read; admission rejects an older one.
        tags: The key's tags and the call's.
        run_id: The run that limits and affinity know the call by, below key and tenant; `run` and `session`
            are what the record says. None: it names no run.
        bound_run: The only run that a child key acts for; None for any.
        outer_models: The lists of the keys above a child key, which a model must be in beside `models`; None
            in it means the default list.
        above: The keys above a child key, the root first; empty for a key that is no child.
        is_raised: The limits and budgets are those of a running raise, which ends without another epoch.
    """

    key_id: str
    kind: CallerKind
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
    tags: Tags = ()
    run_id: str | None = None
    bound_run: str | None = None
    outer_models: tuple[tuple[str, ...] | None, ...] = ()
    above: tuple[KeyAbove, ...] = ()
    is_raised: bool = False

    @property
    def root_key_id(self) -> str:
        """The id of the key that a child key is below, or its own."""
        return self.above[0].key_id if self.above else self.key_id


def parse_tags(given: Any, path: str) -> Tags:  # noqa: ANN401 -- unchecked JSON
    """Parses a list of tags, or a text of tags with commas; raises `BadRequest` naming `path`."""
    if given is None:
        return ()
    if isinstance(given, str):
        tags: list[Any] = [tag for tag in given.split(",") if tag.strip()]
    elif isinstance(given, list | tuple):
        tags = list(cast("Iterable[Any]", given))
    else:
        raise _invalid_tags(path)
    return merge_tags((_parse_tag(tag, path) for tag in tags), path)


def merge_tags(tags: Iterable[str], path: str) -> Tags:
    """Returns each tag once, in order; raises `BadRequest` naming `path` for more than `MAX_TAGS`."""
    merged = tuple(dict.fromkeys(tags))
    if len(merged) > MAX_TAGS:
        message = f"Invalid '{path}': at most {MAX_TAGS} tags, the key's own included."
        raise BadRequest(message, param=path, code="invalid_value")
    return merged


def _parse_tag(given: Any, path: str) -> str:  # noqa: ANN401 -- unchecked JSON
    text = given.strip() if isinstance(given, str) else ""
    if not text or len(text) > MAX_TAG_CHARS or not text.isprintable() or "," in text:
        raise _invalid_tags(path)
    return text


def _invalid_tags(path: str) -> BadRequest:
    return BadRequest(
        f"Invalid '{path}': expected tags of 1 to {MAX_TAG_CHARS} printable characters without commas.",
        param=path,
        code="invalid_value",
    )


def on_behalf_of(
    caller: Caller, by_header: Attribution, by_body: Attribution, run_id: str | None = None
) -> Caller:
    """Returns the caller with what headers and body attribute the request to, in its run or else `run_id`.

    A key bound to the agent `ANY` acts for any agent of its tenant; a key bound to no user for any user.

    Raises:
        BadRequest: Headers and body disagree, or name more tags than a call may have.
        Forbidden: A virtual key names a tenant, agent, user or run outside its binding.
    """
    run_id = caller.bound_run or run_id
    if by_header is NO_ATTRIBUTION and by_body is NO_ATTRIBUTION and caller.agent != ANY and run_id is None:
        return caller
    tenant = _same_or_either("tenant", by_header.tenant, by_body.tenant)
    agent = _same_or_either("agent", by_header.agent, by_body.agent)
    user = _same_or_either("user", by_header.user, by_body.user)
    run = _same_or_either("run", by_header.run, by_body.run)
    if caller.kind == "virtual":
        _require_bound("tenant", caller.tenant, tenant)
        if caller.agent != ANY:
            _require_bound("agent", caller.agent, agent)
        if caller.user is not None:
            _require_bound("user", caller.user, user)
        if caller.bound_run is not None:
            _require_bound("run", caller.bound_run, run)
    # `dataclasses.replace` costs three times as much.
    return Caller(
        caller.key_id,
        caller.kind,
        tenant or caller.tenant,
        agent or (None if caller.agent == ANY else caller.agent),
        user or caller.user or by_body.presumed_user,
        _same_or_either("session", by_header.session, by_body.session) or caller.session,
        _same_or_either("channel", by_header.channel, by_body.channel) or caller.channel,
        caller.key_prefix,
        caller.models,
        caller.limits,
        caller.budgets,
        caller.max_tokens_cap,
        caller.cache,
        caller.revocation_epoch,
        run or caller.run,
        _merged_tags(caller, by_header, by_body) if by_header.tags or by_body.tags else caller.tags,
        run_id,
        caller.bound_run,
        caller.outer_models,
        caller.above,
        caller.is_raised,
    )


def attribution_from_headers(headers: Mapping[bytes, bytes]) -> Attribution:
    """Reads the attribution headers (lower-case names); raises `BadRequest` naming an invalid header."""
    if _ATTRIBUTION_HEADERS.isdisjoint(headers):
        return NO_ATTRIBUTION
    tenant, agent, user, session, run = (_name_header(headers, name) for name in _NAME_HEADERS)
    tags = _tags_header(headers[_TAGS_HEADER]) if _TAGS_HEADER in headers else ()
    return Attribution(tenant=tenant, agent=agent, user=user, session=session, run=run, tags=tags)


def _tags_header(value: bytes) -> Tags:
    return parse_tags(_header_text(value), "x-tags")


def _header_text(value: bytes) -> str:
    """Returns a header as text: UTF-8, else Latin-1, in which some clients write it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def parse_name(value: bytes) -> str | None:
    """Returns the name in a header; None unless it has 1 to `MAX_NAME_CHARS` printable characters."""
    text = _header_text(value.strip())
    return text if text and len(text) <= MAX_NAME_CHARS and text.isprintable() else None


def _name_header(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    if value is None:
        return None
    text = parse_name(value)
    if text is None:
        raise BadRequest(
            f"Invalid '{name.decode()}' header: expected 1 to {MAX_NAME_CHARS} printable characters.",
            param=name.decode(),
        )
    return text


def _merged_tags(caller: Caller, by_header: Attribution, by_body: Attribution) -> Tags:
    return merge_tags((*caller.tags, *by_header.tags, *by_body.tags), "tags")


def _same_or_either(field: str, header: str | None, body: str | None) -> str | None:
    if header is not None and body is not None and header != body:
        raise BadRequest(
            f"The headers and the body name different {field}s.", param=field, code=f"{field}_mismatch"
        )
    return header if header is not None else body


def foreign_name_error(field: str, bound: str | None) -> Forbidden:
    """Returns the error of a key that is bound to one tenant, agent, user or run, and names another."""
    whose = f"is bound to the {field} '{bound}' and " if bound is not None else ""
    return Forbidden(
        f"This API key {whose}may not act for another {field}.", param=field, code=f"{field}_not_allowed"
    )


def _require_bound(field: str, bound: str | None, named: str | None) -> None:
    if named is not None and named != bound:
        raise foreign_name_error(field, bound)
