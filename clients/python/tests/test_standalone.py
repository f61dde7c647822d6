"""`python -m llm_proxy_service`: the older service's words as a start of the gateway."""

import os
import subprocess
import sys

import pytest

from llm_proxy_service.__main__ import UpCommand, translate
from llm_proxy_service.errors import ConfigurationError


@pytest.mark.parametrize(
    ("line", "arguments", "variables"),
    [
        ("", "up", {}),
        ("--port 8080 --cache-size 2000", "up --port 8080", {}),
        ("--port 8080 --sidecars 2", "up --port 8080 --sidecars 2", {}),
        ("--cache-ttl 60", "up", {"LLM_PROXY_CACHE_TTL": "60.0"}),
        ("--cache-size 0", "up", {"LLM_PROXY__CACHE_MODE": "off"}),
        (
            "--cache-ttl=0 --max-retries 5",
            "up",
            {"LLM_PROXY__CACHE_MODE": "off", "LLM_PROXY_MAX_RETRIES": "5"},
        ),
        ("--load-balance cost_optimized", "up", {"LLM_PROXY_LOAD_BALANCE": "COST_OPTIMIZED"}),
        ("--enable-failover", "up", {}),
    ],
)
def test_words_become_options_and_variables(line: str, arguments: str, variables: dict[str, str]) -> None:
    """What is no word of the older service's is `up`'s own."""
    command = translate(line.split(), {})
    assert (command.arguments, command.variables) == (arguments.split(), variables)


def test_a_size_of_the_cache_is_noted_as_without_effect() -> None:
    """The start goes on, and the line names what bounds the cache; from the variable as well."""
    for command in (translate(["--cache-size", "2000"], {}), translate([], {"LLM_PROXY_CACHE_SIZE": "2000"})):
        assert command == UpCommand(["up"], {}, command.notes)
        assert len(command.notes) == 1
        assert "2000" in command.notes[0]
        assert "CACHE_REDIS_URL" in command.notes[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--no-enable-failover", "fallbacks"),
        ("--disable-failover", "fallbacks"),
        ("--cache-size many", "invalid int value"),
    ],
)
def test_a_word_that_would_mislead_is_refused(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to set."""
    with pytest.raises(SystemExit) as ended:
        translate(line.split(), {})
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"), [("--cache-size=-1", "cache_size"), ("--strategy fast", "FASTEST_RESPONSE")]
)
def test_an_invalid_value_is_refused(line: str, message: str) -> None:
    """As for the service in a program."""
    with pytest.raises(ConfigurationError, match=message):
        translate(line.split(), {})


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    """The command as it is typed."""
    return subprocess.run(
        [sys.executable, "-m", "llm_proxy_service", *words],
        env={**os.environ, "LLM_PROXY_LOAD_BALANCE": "ROUND_ROBIN"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_is_llm_proxy_up() -> None:
    """A port that is none, and a configuration that does not exist, are refused by that command."""
    done = run("--cache-size", "2000", "--config", "nowhere.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert "cache size 2000" in first
    assert second.startswith("llm-proxy: Invalid value for '--config'")
