"""Request headers that shape a call: `X-Provider`, `Cache-Control`, `X-Priority`, Anthropic's, ...

Invariants: an invalid value is rejected with the header's name; unknown cache directives are ignored (RFC
9111, 5.2.3).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast, get_args

from llm_proxy.dialects.call import DEFAULT_CACHE_CONTROL, CacheControl
from llm_proxy.dialects.response_ids import ResponseRef
from llm_proxy.errors import BadRequest
from llm_proxy.identity.caller import Priority
from llm_proxy.json_access import Json
from llm_proxy.uploads import UploadedFile

_PROVIDER = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SECONDS = re.compile(rb"[0-9]{1,9}")
_TIMEOUT = re.compile(rb"[0-9]{1,6}(?:\.[0-9]{1,3})?")
_TOKEN = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_BETAS = 64
_HEADERS = frozenset(
    {
        b"x-provider", b"cache-control", b"x-request-timeout", b"x-internal-auth", b"anthropic-version",
        b"anthropic-beta", b"x-priority",
    }
)  # fmt: skip


class History(NamedTuple):
    """A stored response that a request goes on from, and the items of the conversation until then."""

    ref: ResponseRef
    items: list[Json]


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What the request's headers say about the call.

    Attributes:
        provider: `X-Provider`, lower case.
        cache: The caller's `Cache-Control`.
        timeout_s: `X-Request-Timeout` in seconds, not clamped yet.
        may_omit_model: A body without `model` means the default model (callers of `x-internal-auth`).
        priority: `X-Priority`: the class in which the call wants to wait; None where it does not say.
        anthropic_version: `anthropic-version` as it was sent; only Anthropic's dialect judges it.
        anthropic_betas: The words of `anthropic-beta`, each once; what is spelled like none is left out.
        files: The files of a form; no header says it.
        history: What the gateway keeps of the conversation; no header says it.
        model: The model that the path names, which counts before the body's; None where it names none.
        query: The query of such a path, as it was sent; only a dialect whose own it is reads it.
    """

    provider: str | None = None
    cache: CacheControl = DEFAULT_CACHE_CONTROL
    timeout_s: float | None = None
    may_omit_model: bool = False
    priority: Priority | None = None
    anthropic_version: str | None = None
    anthropic_betas: tuple[str, ...] = ()
    history: History | None = None
    files: tuple[UploadedFile, ...] = ()
    model: str | None = None
    query: str = ""


NO_OPTIONS = RequestOptions()


def parse_request_options(headers: Iterable[tuple[bytes, bytes]]) -> RequestOptions:
    """Returns the options of a request's headers.

    Args:
        headers: Lower-case names, as ASGI has them.

    Raises:
        BadRequest: An invalid value, with `param` the header's name.
    """
    pairs = [pair for pair in headers if pair[0] in _HEADERS]
    if not pairs:
        return NO_OPTIONS
    found = {name: value.strip() for name, value in pairs}
    directives = [one for name, value in pairs if name == b"cache-control" for one in value.split(b",")]
    words = [one.strip() for name, value in pairs if name == b"anthropic-beta" for one in value.split(b",")]
    betas = dict.fromkeys(one.decode() for one in words if _TOKEN.fullmatch(one))
    provider, timeout = found.get(b"x-provider"), found.get(b"x-request-timeout")
    version = found.get(b"anthropic-version")
    return RequestOptions(
        provider=None if provider is None else parse_provider(provider, "X-Provider"),
        cache=parse_cache_control(directives),
        timeout_s=None if timeout is None else _timeout_s(timeout),
        may_omit_model=b"x-internal-auth" in found,
        priority=_priority(found[b"x-priority"]) if b"x-priority" in found else None,
        anthropic_version=None if version is None else version.decode("latin-1"),
        anthropic_betas=tuple(betas)[:MAX_BETAS],
    )


def parse_cache_control(directives: Iterable[bytes]) -> CacheControl:
    """Returns what `no-cache`, `no-store` and `max-age` (the smallest) request; raises `BadRequest`."""
    no_cache = no_store = False
    ages_s: list[int] = []
    for directive in directives:
        name, _, value = directive.strip().lower().partition(b"=")
        if name == b"no-cache":
            no_cache = True
        elif name == b"no-store":
            no_store = True
        elif name == b"max-age":
            if not _SECONDS.fullmatch(value.strip(b'"')):
                raise _invalid("Cache-Control", "max-age in whole seconds")
            ages_s.append(int(value.strip(b'"')))
    if not (no_cache or no_store or ages_s):
        return DEFAULT_CACHE_CONTROL
    return CacheControl(no_cache, no_store, min(ages_s, default=None))


def parse_provider(value: bytes, path: str) -> str:
    """A provider's name in lower case; raises `BadRequest` naming `path` when it is not spelled like one."""
    if not _PROVIDER.fullmatch(value):
        raise BadRequest(f"Invalid '{path}': expected a provider's name.", param=path, code="invalid_value")
    return value.decode("ascii").lower()


def _timeout_s(value: bytes) -> float:
    if not _TIMEOUT.fullmatch(value) or float(value) <= 0:
        raise _invalid("X-Request-Timeout", "a number of seconds from 0.001 to 999999.999")
    return float(value)


def _priority(value: bytes) -> Priority:
    for one in get_args(Priority):
        if value.lower() == one.encode():
            return cast("Priority", one)
    raise _invalid("X-Priority", " or ".join(get_args(Priority)))


def _invalid(header: str, expected: str) -> BadRequest:
    return BadRequest(f"Invalid '{header}' header: expected {expected}.", param=header, code="invalid_value")
