"""The console: web pages for people, in a process and on a port of their own.

It reads through the stores of `ledger` and `identity`, and changes through the gateway's own API with the
credential of the person who is signed in. No part of it runs in a gateway.
"""

from llm_proxy.console.app import create_console

__all__ = ["create_console"]
