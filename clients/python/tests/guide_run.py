"""Runs code of `guide_snippets.md` in one namespace, as a notebook would; prints what came of each, in JSON.

`python guide_run.py [NAME ...]`: all of it, or what is named, in that order. The environment names the mode.
Nothing is given but the names of the package: some snippets use names they do not import.
"""

import ast
import asyncio
import contextlib
import io
import json
import re
import sys
import traceback
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import llm_proxy_service

SNIPPETS = Path(__file__).with_name("guide_snippets.md")
BLOCK = re.compile(r"^## (\S+)\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
ON_A_TERMINAL = {"application"}
ALTERNATIVES = {"strategies"}
"""Each makes a service in the place of the one that later snippets go on with."""
COMMENT_ONLY = re.compile(r"^(if .*|else):\n    (# .*)$", re.MULTILINE)


def snippets() -> dict[str, str]:
    """The code by its name."""
    return dict(BLOCK.findall(SNIPPETS.read_text(encoding="utf-8")))


async def run(code: str, namespace: dict[str, Any]) -> None:
    """Run code that may await at its top level."""
    compiled = compile(code, "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(compiled, CodeType)
    waiting = FunctionType(compiled, namespace)()
    if waiting is not None:
        await waiting


async def main() -> None:
    """Run each snippet; a failure is noted, and the next one runs."""
    namespace = {name: getattr(llm_proxy_service, name) for name in llm_proxy_service.__all__}
    outcomes: dict[str, list[str]] = {}
    known = snippets()
    for name in sys.argv[1:] or [name for name in known if name not in ON_A_TERMINAL]:
        output, failure = io.StringIO(), ""
        with contextlib.redirect_stdout(output):
            try:
                await run(
                    COMMENT_ONLY.sub(r"\1:\n    pass  \2", known[name]),
                    dict(namespace) if name in ALTERNATIVES else namespace,
                )
            except Exception:  # noqa: BLE001 -- whatever it was, the test shows it
                failure = traceback.format_exc()
        outcomes[name] = [output.getvalue(), failure]
    for name in ("service", "llm"):
        if name in namespace:
            await namespace[name].stop()
    print(json.dumps(outcomes))  # noqa: T201 -- the test reads it


if __name__ == "__main__":
    asyncio.run(main())
