"""Whose fault an error is: the caller's never cools a deployment nor falls back to another."""


def apply() -> None:
    """Patch the router; before LiteLLM's start."""
