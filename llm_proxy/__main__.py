"""`python -m llm_proxy`: the same as the `llm-proxy` command."""

from llm_proxy.cli import main

main()
