"""`llm-proxy up`, `reload` and `sidecar`: the stack on this machine, its rolling restart, one sidecar alone.

Invariants: a fault is one line on standard error and exit code 1, a wrong setting is exit code 2. `reload`
exits 0 when the new configuration serves, 1 when it was rejected or no stack runs. `sidecar` replaces this
process by `LLM_PROXY_SIDECAR_PYTHON`, else the project's `.venv-sidecar`, else this Python if it has LiteLLM.
"""

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import click
from pydantic import ValidationError

from llm_proxy.cli.config import config_faults
from llm_proxy.cli.printing import as_json_option, print_json
from llm_proxy.service_urls import InvalidURL
from llm_proxy.settings import faults_of
from llm_proxy.stack import NotInstalled, ProcessFailed, state_dir
from llm_proxy.stack.launch import run
from llm_proxy.stack.plan import Refused, UpOptions
from llm_proxy.stack.process_specs import VERIFIED_ENTRY_POINT
from llm_proxy.stack.state_dir import ReloadStatus, read_reload_status


@click.command
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own LiteLLM configuration [default: litellm-config.yaml].",
)
@click.option("--host", help="Address the gateway listens on [default: 127.0.0.1].")
@click.option("--port", type=click.IntRange(1, 65535), help="Port the gateway listens on [default: 7007].")
@click.option(
    "--sidecars", type=click.IntRange(1, 64), default=1, show_default=True, help="LiteLLM processes."
)
@click.option("--local-model/--no-local-model", default=True, help="Serve the small model that runs here.")
@click.option("--stores/--no-stores", default=True, help="Start a Postgres and Valkeys where none is named.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".local"),
    show_default=True,
    envvar="LLM_PROXY_STATE",
    help="Folder of data, models and logs.",
)
@click.option("--with-parent", is_flag=True, help="Stop when the program that started this one is gone.")
@click.option("--logs-to-stdout", is_flag=True, help="All logs on standard output instead of files.")
def up(  # noqa: PLR0913 -- one argument an option
    *,
    config: Path | None,
    host: str | None,
    port: int | None,
    sidecars: int,
    local_model: bool,
    stores: bool,
    state: Path,
    with_parent: bool,
    logs_to_stdout: bool,
) -> None:
    """Start, supervise and stop the whole stack on this machine.

    DATABASE_URL, REDIS_URL (or LIMITS_REDIS_URL and CACHE_REDIS_URL) and provider keys, in the environment,
    .env or .keys/, replace the embedded part each.
    """
    wishes = UpOptions(config, host, port, local_model, stores, sidecars, state, with_parent, logs_to_stdout)
    try:
        run(wishes, os.environ, click.echo, config_faults)
    except ValidationError as wrong:
        for fault in faults_of(wrong):
            click.echo(f"llm-proxy: {fault}", err=True)
        sys.exit(2)
    except UnicodeDecodeError:
        click.echo("llm-proxy: a file of .env or .keys/: it is no UTF-8", err=True)
        sys.exit(2)
    except InvalidURL as fault:
        click.echo(f"llm-proxy: {fault}", err=True)
        sys.exit(2)
    except (Refused, NotInstalled, ProcessFailed) as fault:
        click.echo(f"llm-proxy: {fault}", err=True)
        sys.exit(1)
    except PermissionError as denied:
        click.echo(f"llm-proxy: no permission for {denied.filename}", err=True)
        sys.exit(1)


STATUS_POLL_EVERY_S = 0.1


@click.command
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".local"),
    show_default=True,
    envvar="LLM_PROXY_STATE",
    help="The folder `llm-proxy up` was given.",
)
@as_json_option
@click.option(
    "--timeout", "timeout_s", type=float, default=180, show_default=True, help="Longest wait, in seconds."
)
def reload(*, state: Path, timeout_s: float, as_json: bool) -> None:
    """Apply a changed litellm-config.yaml, or changed keys, without losing a request.

    New sidecars start beside the old ones, are warmed up and take over; the old ones finish what runs at
    them. A configuration that does not validate is refused, and nothing changes. Addresses of stores, ports,
    the key between gateway and sidecars and the gateway's settings are read at a start alone: what changed
    among them is named.
    """
    launcher = state_dir.running_pid(state)
    if launcher is None:
        raise click.ClickException(f"no `llm-proxy up` runs on {state}/: start it, or name another --state")
    asked_ns = time.monotonic_ns()
    os.kill(launcher, signal.SIGHUP)
    outcome = _follow(state, asked_ns, time.monotonic() + timeout_s, to_stderr=as_json)
    if as_json:
        print_json({"done": outcome.done, "said": outcome.said})
    if not outcome.done:
        raise click.ClickException("refused; the old configuration stays")


def _follow(state: Path, asked_ns: int, until_s: float, *, to_stderr: bool) -> ReloadStatus:
    """Says how it goes until it is decided."""
    told = 0
    while time.monotonic() < until_s:
        found = read_reload_status(state)
        if found is not None and found.began_ns >= asked_ns:
            for line in found.said[told:]:
                click.echo(line, err=to_stderr or found.done is False)
            told = len(found.said)
            if found.done is not None:
                return found
        elif state_dir.running_pid(state) is None:
            raise click.ClickException("the launcher has ended")
        time.sleep(STATUS_POLL_EVERY_S)
    raise click.ClickException("the launcher has not answered in time; its log says why")


PROJECT = Path(__file__).parents[2]


def sidecar_interpreter() -> str:
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
    python = sidecar_interpreter()
    try:
        os.execv(python, [python, "-I", "-S", str(VERIFIED_ENTRY_POINT), *words])  # noqa: S606 -- a program we ship
    except OSError as problem:
        raise click.ClickException(f"{python}: {problem.strerror}") from problem
