"""LiteLLM's process: starts LiteLLM with patches and serves its inference functions to the gateway.

Invariants: one process, one worker, one port; imports only the standard library, asyncpg, uvicorn, yaml,
litellm and modules of this project that need nothing else. `python -m llm_proxy.sidecar`.
"""
