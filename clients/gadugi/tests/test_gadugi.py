"""`gadugi.services.llm_proxy`: one started service, beside a Gadugi of its own."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gadugi.services.llm_proxy import get_llm_service
from llm_proxy_service import ConfigurationError, LLMProxyService

OURS = Path(__file__).parents[1] / "gadugi"


@pytest.fixture(autouse=True)
def _no_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is away: a service starts all the same."""
    monkeypatch.setenv("LLM_PROXY_URL", "http://127.0.0.1:1")


async def test_every_caller_gets_the_same_service_until_it_is_stopped() -> None:
    """Also callers at the same moment; after its stop there is a new one."""
    first, second = await asyncio.gather(get_llm_service(), get_llm_service())
    assert isinstance(first, LLMProxyService)
    assert first is second
    assert (await first.health_check())["status"] == "unhealthy"
    await first.stop()
    third, fourth = await asyncio.gather(get_llm_service(), get_llm_service())
    assert third is fourth is not first
    await third.stop()


async def test_a_wrong_setting_is_reported_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And mended without a new process."""
    monkeypatch.setenv("LLM_PROXY_CACHE_SIZE", "many")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="LLM_PROXY_CACHE_SIZE"):
            await get_llm_service()
    monkeypatch.delenv("LLM_PROXY_CACHE_SIZE")
    await (await get_llm_service()).stop()


@pytest.mark.parametrize("marked", [True, False])
def test_a_gadugi_of_its_own_stays(tmp_path: Path, *, marked: bool) -> None:
    """Installed into one folder, its modules and ours are both found, with and without an `__init__`."""
    theirs = tmp_path / "gadugi" / "services"
    theirs.mkdir(parents=True)
    for package in (theirs.parent, theirs):
        (package / "agents.py").write_text("HERE = True\n", encoding="utf-8")
        if marked:
            (package / "__init__.py").write_text("MINE = True\n", encoding="utf-8")
    shutil.copytree(OURS, tmp_path / "gadugi", dirs_exist_ok=True)
    used = "import gadugi.agents, gadugi.services.agents as _, gadugi.services.llm_proxy as ours; print(ours)"
    done = subprocess.run(
        [sys.executable, "-c", used], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(tmp_path / "gadugi" / "services" / "llm_proxy") in done.stdout
    if marked:
        assert (theirs / "__init__.py").read_text(encoding="utf-8") == "MINE = True\n"
