"""`llm-proxy reload`: a running `llm-proxy up` exchanges its sidecars for new ones, and we say how that went.

Invariants: exit 0 when the new configuration serves, 1 when it was refused or nobody runs; an outcome counts
only when its exchange began after we asked.
"""

import os
import signal
import time
from pathlib import Path

import click

from llm_proxy.cli.printing import as_json_option, print_json
from llm_proxy.stack import presence
from llm_proxy.stack.outcome import Outcome, read

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
    launcher = presence.launcher(state)
    if launcher is None:
        raise click.ClickException(f"no `llm-proxy up` runs on {state}/: start it, or name another --state")
    asked_ns = time.monotonic_ns()
    os.kill(launcher, signal.SIGHUP)
    outcome = _followed(state, asked_ns, time.monotonic() + timeout_s, to_stderr=as_json)
    if as_json:
        print_json({"done": outcome.done, "said": outcome.said})
    if not outcome.done:
        raise click.ClickException("refused; the old configuration stays")


def _followed(state: Path, asked_ns: int, until_s: float, *, to_stderr: bool) -> Outcome:
    """Says how it goes until it is decided."""
    told = 0
    while time.monotonic() < until_s:
        found = read(state)
        if found is not None and found.began_ns >= asked_ns:
            for line in found.said[told:]:
                click.echo(line, err=to_stderr or found.done is False)
            told = len(found.said)
            if found.done is not None:
                return found
        elif presence.launcher(state) is None:
            raise click.ClickException("the launcher has ended")
        time.sleep(LOOK_EVERY_S)
    raise click.ClickException("the launcher has not answered in time; its log says why")
