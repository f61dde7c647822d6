"""Settings in, a running gateway out: the composition root."""

from llm_proxy.app.gateway import Gateway, create_app

__all__ = ["Gateway", "create_app"]
