"""The in-process mode, against scripted providers; each case runs in the environment of LiteLLM."""

import ast
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import scripted_providers

from llm_proxy.stack import process_specs

HERE = Path(__file__).parent
FILES = ("in_process_cases.py", "in_process_stream_cases.py")
CASES = [
    node.name
    for file in FILES
    for node in ast.parse((HERE / file).read_text(encoding="utf-8")).body
    if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_")
]
UNSET = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY", "LLM_PROXY_URL"}


@pytest.fixture(scope="module")
def run_case() -> Iterator[Callable[[str], str | None]]:
    """Runs a case by its name; what it raised, or None."""
    with scripted_providers.running(3) as addresses:
        environment = {name: value for name, value in os.environ.items() if name not in UNSET}
        environment |= {
            scripted_providers.VARIABLE: json.dumps(addresses),
            "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
        }
        driver = subprocess.Popen(
            [process_specs.sidecar_python(), "-W", "error::ResourceWarning", HERE / "case_driver.py"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdin
        assert driver.stdout
        names, failures = driver.stdin, driver.stdout

        def run(name: str) -> str | None:
            print(name, file=names, flush=True)
            failure: str | None = json.loads(failures.readline())
            return failure

        try:
            yield run
        finally:
            driver.terminate()
            driver.communicate()


@pytest.mark.parametrize("name", CASES)
def test_in_process(name: str, run_case: Callable[[str], str | None]) -> None:
    """The case's docstring or name is the rule."""
    failure = run_case(name)
    assert failure is None, failure
