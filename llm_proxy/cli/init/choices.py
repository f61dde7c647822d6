"""The choices for `llm-proxy init`: from options, from answers, or by default."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Proxy = Literal["nginx", "caddy"]
"""A server that ends TLS in front of the gateway."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The choices for one installation.

    Attributes:
        providers: Names of providers; empty: every provider of the shipped configuration.
        provider_values: The providers' keys and addresses, by variable.
        has_test_model: Whether the test models of this machine are served.
        database_url: A Postgres of the operator's; None: one is started.
        redis_url: A Redis of the operator's; None: one is started.
        port: Of the gateway.
        console_port: None: no console.
        hostname: The public name, for TLS; None: none is configured.
        proxy: What ends TLS.
        sidecars: The number of LiteLLM's processes under Compose; None: no files of Compose.
    """

    providers: tuple[str, ...] = ()
    provider_values: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    has_test_model: bool = True
    database_url: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    port: int = 7007
    console_port: int | None = 7070
    hostname: str | None = None
    proxy: Proxy = "nginx"
    sidecars: int | None = 2
