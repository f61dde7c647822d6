"""The programs of `examples/clients` whose clients the tests have; `make examples` runs the others."""

import asyncio

import httpx
import pytest
from conformance import examples
from loopback import NO_TLS
from running_stack import RunningStack

LANGUAGES = {".py": "python", ".mjs": "javascript", ".sh": "sh"}


@pytest.mark.parametrize("program", examples.ON_HAND)
async def test_an_example_runs_as_it_stands(stack: RunningStack, program: str) -> None:
    """It gets an address and a key; its chat, its stream and its embedding reach the provider, once each."""
    admin = {"Authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(verify=NO_TLS, headers=admin) as client:
        assert (await client.delete(f"{stack.url}/admin/cache")).is_success  # they ask the same
    wrong = await asyncio.to_thread(examples.fault, program, f"{stack.url}/v1", stack.provider_url)
    assert wrong == ""


def test_every_example_is_run_and_shown() -> None:
    """The pages of `docs/connect` have the text of each program that is run."""
    pages = "".join(page.read_text(encoding="utf-8") for page in examples.PAGES.glob("*.md"))
    programs = sorted(path for path in examples.EXAMPLES.iterdir() if path.is_file())
    assert [path.name for path in programs] == sorted(examples.PROGRAMS)
    for program in programs:
        block = f"```{LANGUAGES[program.suffix]}\n{program.read_text(encoding='utf-8')}```\n"
        assert block in pages, program.name
