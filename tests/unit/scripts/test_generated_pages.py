"""What is generated says what it is generated from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loaded_script import load_script

from llm_proxy.setting_sources import names_of
from llm_proxy.settings import Settings

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("env_example", ".env.example"),
        ("configuration", "docs/configuration.md"),
        ("python_client", "docs/python_client_reference.md"),
        ("litellm_settings", "docs/litellm/settings.md"),
        ("litellm_patches", "docs/litellm/patches.md"),
        ("chart_settings", "deploy/helm/llm-proxy/files/settings.json"),
        ("doctor_page", "docs/doctor.md"),
        ("wire_schemas", "llm_proxy/edge/schemas/wire.json"),
    ],
)
def test_a_generated_page_is_what_the_settings_say(script: str, page: str) -> None:
    """After a changed setting: `python scripts/SCRIPT.py > PAGE`."""
    made = subprocess.run(
        [sys.executable, f"scripts/{script}.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout == (ROOT / page).read_text()


def test_the_example_of_each_setting_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the only variable that is set, and as another value than the default."""
    monkeypatch.chdir(tmp_path)
    example = load_script("setting_examples").example
    for name, field in Settings.model_fields.items():
        with monkeypatch.context() as environment:
            environment.setenv(names_of(Settings, name)[0], example(name, field))
            assert getattr(Settings.model_validate({}), name) != field.default, name


def test_the_api_reference_is_what_the_gateway_says() -> None:
    """After a changed route: `python scripts/api_reference.py`."""
    env = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "scripts/api_reference.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, env=env, check=False).returncode == 0


def test_uv_run_installs_what_the_lock_says() -> None:
    """After a changed lock: `python scripts/pins.py`."""
    done = subprocess.run([sys.executable, "scripts/pins.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0
