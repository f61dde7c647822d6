"""The story of `llm-proxy up`: look around, settle, start every part, greet, keep watch, stop everything.

Invariants: one launcher a folder; whatever way it ends, no part is left; the slowest part starts first and
the others beside it. SIGHUP exchanges the sidecars, unless the terminal is gone: then it ends the stack.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from llm_proxy import __version__
from llm_proxy.hardening import harden_process, restrict_to_owner
from llm_proxy.stack import operator_env
from llm_proxy.stack.operator_env import OperatorEnv, read_operator_env
from llm_proxy.stack.plan import Refused, StackPlan, UpOptions, banner, make_plan
from llm_proxy.stack.process import ManagedProcess, die_with_parent
from llm_proxy.stack.rolling_restart import CheckConfig, RollingRestart
from llm_proxy.stack.state_dir import LOCK_FILE, Taken, exclusive, write_addresses
from llm_proxy.stack.supervisor import PrintLine, Supervisor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(BaseException):
    """A signal asked the launcher to stop; nothing between here and the end of the stack may swallow it."""


def run(wishes: UpOptions, environment: Mapping[str, str], say: PrintLine, check: CheckConfig) -> None:
    """Runs the stack until SIGINT or SIGTERM.

    Args:
        wishes: What the command line asks for.
        environment: This process's.
        say: Where people read.
        check: What is wrong with a configuration that is to replace the one running.

    Raises:
        Refused, Missing, PartDied: It could not start or be kept up; the message says why.
        pydantic.ValidationError: A setting is wrong.
    """
    if wishes.with_parent:
        die_with_parent(os.getppid(), signal.SIGTERM)
    harden_process()
    wishes.state.mkdir(parents=True, exist_ok=True)
    if (wishes.state / LOCK_FILE).exists():  # never a folder that was there before us
        restrict_to_owner(wishes.state)
    with _exclusive(wishes.state):
        given = _with_secrets(read_operator_env(environment, Path.cwd()), say)
        plan = make_plan(wishes, given)
        _on_stop_signals(_request_stop)
        signal.signal(signal.SIGHUP, _request_stop)
        household = Supervisor(None if wishes.logs_to_stdout else wishes.state / "logs", say)
        try:
            look = partial(read_operator_env, environment, Path.cwd())
            succession = RollingRestart(household, plan, look=look, check=check, say=say)
            succession.adopt(start_all(household, plan, say))
            write_addresses(wishes.state, plan.published_addresses())
            _reload_on_hangup(succession)
            household.run_forever(succession.tick)
        except StopRequested:
            say("\nstopping")
        finally:
            _on_stop_signals(signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            household.stop_all()
    say("stopped")


def start_all(household: Supervisor, plan: StackPlan, say: PrintLine) -> dict[int, ManagedProcess]:
    """Starts everything, prints the banner and returns the sidecars; raises `ProcessFailed`."""
    say(f"llm-proxy {__version__} is starting; logs {_log_location(household)}")
    quick = household.start_all(plan.stores.valkey_specs(plan.state))
    plan.write_sidecar_list()
    sidecars = {number: household.start(part) for number, part in plan.sidecar_specs()}
    slow = [*sidecars.values(), *household.start_all(plan.model_specs())]
    household.wait_until_ready(quick + household.start_all(plan.stores.postgres_specs(plan.state)))
    plan.migrate_database()
    household.wait_until_ready([*slow, household.start(plan.gateway_spec())])
    say(
        banner(
            plan.base_url(),
            plan.example_model(),
            _log_location(household),
            plan.operator_env,
            household.uptime_s(),
        )
    )
    return sidecars


def _log_location(household: Supervisor) -> str:
    return f"in {household.logs}/" if household.logs else "on standard output"


def _with_secrets(given: OperatorEnv, say: PrintLine) -> OperatorEnv:
    """Everything given, with the missing secrets made."""
    file = Path.cwd() / ".env"
    made = operator_env.create_missing(given, file)
    if made:
        say(f"made {len(made)} secrets, kept in {file}")
    for warning in given.warnings:
        say(f"warning: {warning}")
    return replace(
        given, variables={**given.variables, **made}, files={**given.files, **dict.fromkeys(made, file)}
    )


@contextlib.contextmanager
def _exclusive(state: Path) -> Generator[None]:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive(state, os.getpid()))
        except Taken:
            raise Refused(
                f"another `llm-proxy up` runs on {state}/: stop it, or name another --state"
            ) from None
        yield


def _on_stop_signals(reaction: signal.Handlers | Callable[[int, FrameType | None], None]) -> None:
    for wanted in STOP_SIGNALS:
        signal.signal(wanted, reaction)


def _request_stop(_number: int, _frame: FrameType | None) -> None:
    _on_stop_signals(signal.SIG_IGN)
    raise StopRequested


def _reload_on_hangup(succession: RollingRestart) -> None:
    had_a_terminal = sys.stdin is not None and sys.stdin.isatty()

    def hung_up(_number: int, _frame: FrameType | None) -> None:
        if had_a_terminal and not _has_terminal():
            raise StopRequested
        succession.request()

    signal.signal(signal.SIGHUP, hung_up)


def _has_terminal() -> bool:
    """Whether the terminal this was started from is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True
