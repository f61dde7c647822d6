"""The wheels: what each brings, and that they work in a folder of their own."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[3]


def built(folder: Path, into: Path) -> ZipFile:
    """The wheel of a distribution of this repository."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(into)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    (wheel,) = into.glob("*.whl")
    return ZipFile(wheel)


@pytest.mark.parametrize(
    ("folder", "packages", "needs"),
    [
        ("clients/python", {"llm_proxy_service"}, ["httpx>=0.28", "litellm"]),
        ("clients/gadugi", {"gadugi"}, ["llm-proxy-service>=0.1"]),
        (".", {"llm_proxy", "llm_proxy_service"}, ["httpx>=0.28"]),
    ],
)
def test_a_wheel_brings_its_packages_and_their_types(
    tmp_path: Path, folder: str, packages: set[str], needs: list[str]
) -> None:
    """Nothing else, no tests; the marker for type checkers; what it needs."""
    with built(ROOT / folder, tmp_path) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
        (metadata,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
        required = wheel.read(metadata).decode()
    assert {name.split("/")[0] for name in names} == packages
    assert not any(
        "test" in name.rpartition("/")[2] for name in names if name.startswith("llm_proxy_service")
    )
    assert any(name.endswith("py.typed") for name in names if not name.startswith("llm_proxy/"))
    for need in needs:
        assert f"Requires-Dist: {need}" in required


def test_the_client_and_gadugi_work_side_by_side(tmp_path: Path) -> None:
    """Unpacked into one folder; LiteLLM is not needed to import them, nor is the gateway."""
    for folder in ("clients/python", "clients/gadugi"):
        with built(ROOT / folder, tmp_path / folder) as wheel:
            wheel.extractall(tmp_path / "site")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import gadugi.services.llm_proxy as ours, llm_proxy_service as client\n"
        "client.LLMProxyService(base_url='http://gateway:7007')\n"
        "print(client.__file__, ours.__file__, 'llm_proxy' in sys.modules, 'litellm' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    client, gadugi, *others = done.stdout.split()
    assert Path(client).is_relative_to(tmp_path)
    assert Path(gadugi).is_relative_to(tmp_path)
    assert others == ["False", "False"]
