"""The settings of a service, from its arguments and the environment; an argument wins.

Invariant: what neither names stays None, so that each mode knows a wish from a default.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from llm_proxy_service.catalog import LoadBalanceStrategy
from llm_proxy_service.errors import ConfigurationError

CACHE_SIZE, CACHE_TTL_S, MAX_RETRIES, TIMEOUT_S = 1000, 3600.0, 3, 600.0
"""The defaults."""
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """The settings of a service; None where neither an argument nor a variable names one.

    Attributes:
        cache_size: Answers that are kept; 0 keeps none.
        cache_ttl: Seconds an answer is kept.
        enable_failover: Whether others take over when a provider fails.
        max_retries: Further attempts after the first.
        timeout: Seconds without a byte after which a call is given up.
        base_url: The gateway's address; None is the in-process mode.
        api_key: The caller's key at the gateway.
    """

    cache_size: int | None = None
    cache_ttl: float | None = None
    load_balance_strategy: LoadBalanceStrategy | None = None
    enable_failover: bool | None = None
    max_retries: int | None = None
    timeout: float | None = None
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)


def complete(stated: ServiceOptions, environment: Mapping[str, str] = os.environ) -> ServiceOptions:
    """The options with what the environment adds to the arguments.

    Reads `LLM_PROXY_CACHE_SIZE`, `LLM_PROXY_CACHE_TTL`, `LLM_PROXY_MAX_RETRIES`, `LLM_PROXY_LOAD_BALANCE`,
    `LLM_PROXY_URL` and `LLM_PROXY_API_KEY`.

    Raises:
        ConfigurationError: A variable or an argument has no valid value.
    """
    options = ServiceOptions(
        cache_size=_read(stated.cache_size, "LLM_PROXY_CACHE_SIZE", environment, int),
        cache_ttl=_read(stated.cache_ttl, "LLM_PROXY_CACHE_TTL", environment, float),
        load_balance_strategy=_read(
            stated.load_balance_strategy, "LLM_PROXY_LOAD_BALANCE", environment, strategy_named
        ),
        enable_failover=stated.enable_failover,
        max_retries=_read(stated.max_retries, "LLM_PROXY_MAX_RETRIES", environment, int),
        timeout=stated.timeout,
        base_url=stated.base_url or environment.get("LLM_PROXY_URL") or None,
        api_key=stated.api_key or environment.get("LLM_PROXY_API_KEY") or None,
    )
    for name in ("cache_size", "cache_ttl", "max_retries", "timeout"):
        value = getattr(options, name)
        if value is not None and not value >= 0:
            raise _invalid(name, value, "0 or more")
    return options


def strategy_named(name: str) -> LoadBalanceStrategy:
    """The strategy of this name, in capitals or not.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return LoadBalanceStrategy(name.strip().lower())
    except ValueError:
        choices = ", ".join(one.name for one in LoadBalanceStrategy)
        raise _invalid("the load balancing strategy", name, f"one of {choices}") from None


def _read(
    stated: Value | None, name: str, environment: Mapping[str, str], parse: Callable[[str], Value]
) -> Value | None:
    text = environment.get(name, "").strip()
    if stated is not None or not text:
        return stated
    try:
        return parse(text)
    except ValueError:
        raise _invalid(name, text, "a number") from None


def _invalid(name: str, value: object, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is {value!r}, not {wanted}", code="invalid_setting")
