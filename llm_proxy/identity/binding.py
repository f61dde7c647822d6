"""Whom a caller may act for: the names in headers and body, held against the key's binding.

Pure. Invariants: a trusted service may name anybody; a virtual key names no tenant, agent or user outside
its binding, in whatever way it does so. An agent binding of `*` stands for every agent of the key's tenant;
a key bound to no user serves end users of its own choosing.
"""

from collections.abc import Mapping

from llm_proxy.errors import BadRequest, Forbidden
from llm_proxy.identity.caller import ANY, NOBODY, Caller, Named
from llm_proxy.identity.tags import Tags, merged, tags_from

LONGEST_NAME = 256
_NAMING = (b"x-tenant-id", b"x-agent-id", b"x-user-id", b"x-session-id", b"x-run-id")
_TAGS = b"x-tags"
_ANY_NAMING = frozenset({*_NAMING, _TAGS})


def on_behalf_of(caller: Caller, by_header: Named, by_body: Named) -> Caller:
    """The caller a request is admitted and billed to.

    Raises:
        BadRequest: Header and body name different ones, or more tags than a call may have.
        Forbidden: A virtual key names somebody outside its binding.
    """
    if by_header is NOBODY and by_body is NOBODY and caller.agent != ANY:
        return caller
    tenant = _one("tenant", by_header.tenant, by_body.tenant)
    agent = _one("agent", by_header.agent, by_body.agent)
    user = _one("user", by_header.user, by_body.user)
    if caller.kind == "virtual":
        _within("tenant", caller.tenant, tenant)
        if caller.agent != ANY:
            _within("agent", caller.agent, agent)
        if caller.user is not None:
            _within("user", caller.user, user)
    bound_agent = None if caller.agent == ANY else caller.agent
    # A third of what `dataclasses.replace` costs.
    return Caller(
        caller.key_id,
        caller.kind,
        tenant or caller.tenant,
        agent or bound_agent,
        user or caller.user,
        _one("session", by_header.session, by_body.session) or caller.session,
        _one("channel", by_header.channel, by_body.channel) or caller.channel,
        caller.key_prefix,
        caller.models,
        caller.limits,
        caller.budgets,
        caller.max_tokens_cap,
        caller.cache,
        caller.revocation_epoch,
        _one("run", by_header.run, by_body.run) or caller.run,
        _all_tags(caller, by_header, by_body) if by_header.tags or by_body.tags else caller.tags,
    )


def named_by_headers(headers: Mapping[bytes, bytes]) -> Named:
    """Whom the headers say the request acts for; raises `BadRequest` for a name no one can have."""
    if _ANY_NAMING.isdisjoint(headers):
        return NOBODY
    tenant, agent, user, session, run = (_name(headers, name) for name in _NAMING)
    tags = _tags(headers[_TAGS]) if _TAGS in headers else ()
    return Named(tenant=tenant, agent=agent, user=user, session=session, run=run, tags=tags)


def _tags(value: bytes) -> Tags:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return tags_from(text, "x-tags")


def _name(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    if value is None:
        return None
    text = value.strip().decode("latin-1")
    if not text or len(text) > LONGEST_NAME or not text.isprintable():
        raise BadRequest(
            f"Invalid '{name.decode()}' header: expected 1 to {LONGEST_NAME} printable characters.",
            param=name.decode(),
        )
    return text


def _all_tags(caller: Caller, by_header: Named, by_body: Named) -> Tags:
    return merged((*caller.tags, *by_header.tags, *by_body.tags), "tags")


def _one(field: str, header: str | None, body: str | None) -> str | None:
    if header is not None and body is not None and header != body:
        raise BadRequest(
            f"The headers and the body name different {field}s.", param=field, code=f"{field}_mismatch"
        )
    return header if header is not None else body


def _within(field: str, bound: str | None, named: str | None) -> None:
    if named is not None and named != bound:
        raise Forbidden(
            f"This API key may not act for another {field}.", param=field, code=f"{field}_not_allowed"
        )
