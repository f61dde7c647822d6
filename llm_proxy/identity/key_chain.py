"""Narrows a child key to what the keys above it allow.

Pure. Invariants: nothing that a narrowed caller may do is denied to a key above it; each key above is a scope
of limits of its own, so that its limits and budgets count the calls below it. A key whose binding is not
within those above it has ended.
"""

from dataclasses import replace

from llm_proxy.identity.caller import ANY, MAX_TAGS, Caller, KeyAbove

MAX_DEPTH = 4
"""Keys below a root, at most, on the way to any key."""


def is_bound_within(caller: Caller, above: tuple[KeyAbove, ...]) -> bool:
    """Whether a child key's tenant, agent, user and run are allowed to each of the keys above it."""
    return all(
        caller.tenant == one.tenant
        and one.agent in {ANY, caller.agent}
        and (one.user is None or caller.user == one.user)
        and (one.run is None or caller.bound_run == one.run)
        for one in above
    )


def narrow(caller: Caller, above: tuple[KeyAbove, ...]) -> Caller:
    """Returns the caller of a child key within the keys above it, the root first."""
    caps = [one for one in (caller.max_tokens_cap, *(key.max_tokens_cap for key in above)) if one is not None]
    stated = [one.models for one in above[1:] if one.models is not None]
    *outer, own = [above[0].models, *stated, *([caller.models] if caller.models is not None else [])]
    tags = dict.fromkeys(tag for tags in (*(one.tags for one in above), caller.tags) for tag in tags)
    return replace(
        caller,
        models=own,
        outer_models=tuple(dict.fromkeys(one for one in outer if one != own)),
        max_tokens_cap=min(caps, default=None),
        cache=caller.cache and all(one.cache for one in above),
        tags=tuple(tags)[:MAX_TAGS],
        above=above,
    )
