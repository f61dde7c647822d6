"""Answers for browsers: which pages may call, by `Access-Control-*` headers; off unless origins are set.

Invariants: an origin not listed gets an ordinary answer without those headers, which its browser keeps from
the page; credentials travel in headers of our own, never in cookies.
Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
READ_BY_PAGES = (
    "x-request-id", "retry-after", "x-should-retry", "server-timing",
    "x-llm-proxy-model", "x-llm-proxy-provider", "x-llm-proxy-cost-usd", "x-llm-proxy-cache",
    "x-llm-proxy-attempts", "x-llm-proxy-fallback-from", "x-llm-proxy-refused-by", "x-llm-proxy-budget-reset",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
)  # fmt: skip
SENT_BY_PAGES = (
    "authorization", "content-type", "cache-control", "x-api-key", "api-key", "x-goog-api-key",
    "x-internal-secret", "x-internal-auth",
    "x-request-id", "x-request-timeout", "x-provider", "x-agent-id", "x-tenant-id", "x-session-id",
    "x-run-id", "x-tags", "x-user-id", "traceparent", "tracestate",
    "x-stainless-arch", "x-stainless-lang", "x-stainless-os", "x-stainless-package-version",
    "x-stainless-retry-count", "x-stainless-runtime", "x-stainless-runtime-version", "x-stainless-timeout",
)  # fmt: skip
"""Ours, and those the OpenAI SDK for browsers adds."""


def with_cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """The application, open to pages of these origins (`*`: of any); itself when there are none."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=SENT_BY_PAGES,
        expose_headers=READ_BY_PAGES,
        max_age=600,
    )
