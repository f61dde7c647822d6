"""Arguments in, text and an exit code out: the `llm-proxy` command."""

from llm_proxy.cli.commands import main

__all__ = ["main"]
