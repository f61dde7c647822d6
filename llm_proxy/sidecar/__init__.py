"""What starts LiteLLM and runs in its process: launch, doors, errors, broken streams, router rules, call log.

Invariants: imports only the standard library, asyncpg, uvicorn, yaml, litellm and itself; one process, one
worker, one port; what of LiteLLM is touched beyond its settings stands in `seams`. `python -m
llm_proxy.sidecar`.
"""
