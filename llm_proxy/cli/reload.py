"""`llm-proxy reload`: a running `llm-proxy up` exchanges its sidecars for new ones, and we say how that went.

Invariants: exit 0 when the new configuration serves, 1 when it was refused or nobody runs; an outcome counts
only when its exchange began after we asked.
"""

import fcntl
import os
import signal
import time
from pathlib import Path

import click

from llm_proxy.stack.outcome import PID_FILE, Outcome, read

LOOK_EVERY_S = 0.1


@click.command
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".local"),
    show_default=True,
    envvar="LLM_PROXY_STATE",
    help="The folder `llm-proxy up` was given.",
)
@click.option(
    "--timeout", "timeout_s", type=float, default=180, show_default=True, help="Longest wait, in seconds."
)
def command(*, state: Path, timeout_s: float) -> None:
    """Apply a changed litellm-config.yaml, or changed keys, without losing a request.

    New sidecars start beside the old ones, are warmed up and take over; the old ones finish what runs at
    them. A configuration that does not validate is refused, and nothing changes.
    """
    launcher = _launcher(state)
    asked_ns = time.monotonic_ns()
    os.kill(launcher, signal.SIGHUP)
    outcome = _outcome(state, asked_ns, time.monotonic() + timeout_s)
    for line in outcome.said:
        click.echo(line, err=not outcome.done)
    if not outcome.done:
        raise click.ClickException("refused; the old configuration stays")


def _launcher(state: Path) -> int:
    """The process id of the launcher; raises `click.ClickException` when none runs."""
    nobody = click.ClickException(f"no `llm-proxy up` runs on {state}/: start it, or name another --state")
    try:
        with (state / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return int((state / PID_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise nobody from None
    except OSError:
        pass
    raise nobody


def _outcome(state: Path, asked_ns: int, until_s: float) -> Outcome:
    while time.monotonic() < until_s:
        found = read(state)
        if found is not None and found.began_ns >= asked_ns:
            return found
        time.sleep(LOOK_EVERY_S)
    raise click.ClickException("the launcher has not answered in time; its log says why")
