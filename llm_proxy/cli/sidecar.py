"""`llm-proxy sidecar`: this process becomes a sidecar, in the environment that has LiteLLM.

Invariant: the interpreter is the one `LLM_PROXY_SIDECAR_PYTHON` names, else the project's `.venv-sidecar`,
else this one when LiteLLM can be imported here.
"""

import importlib.util
import os
import sys
from pathlib import Path

import click

from llm_proxy.stack.programs import VERIFIED_START

PROJECT = Path(__file__).parents[2]


def interpreter() -> str:
    """The Python that has LiteLLM; raises `click.ClickException` when there is none."""
    named = os.environ.get("LLM_PROXY_SIDECAR_PYTHON")
    own = PROJECT / ".venv-sidecar" / "bin" / "python"
    if named:
        return named
    if own.exists():
        return str(own)
    if importlib.util.find_spec("litellm") is not None:
        return sys.executable
    raise click.ClickException("LiteLLM is not installed: run `make setup`, or set LLM_PROXY_SIDECAR_PYTHON")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def sidecar(words: tuple[str, ...]) -> None:
    """Run one LiteLLM process: --config FILE [--host H] [--port N]."""
    python = interpreter()
    try:
        os.execv(python, [python, "-I", "-S", str(VERIFIED_START), *words])  # noqa: S606 -- a program we ship
    except OSError as problem:
        raise click.ClickException(f"{python}: {problem.strerror}") from problem
