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
from llm_proxy.hardening import close_to_others, keep_private
from llm_proxy.stack import operator_env
from llm_proxy.stack.operator_env import Surroundings, look_around
from llm_proxy.stack.plan import Plan, Refused, Wishes, greeting, settle
from llm_proxy.stack.process import Running, tether
from llm_proxy.stack.rolling_restart import Check, Succession
from llm_proxy.stack.state_dir import LOCK, Taken, alone_in, note
from llm_proxy.stack.supervisor import Household, Say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Asked(BaseException):
    """A signal asked the launcher to stop; nothing between here and the end of the stack may swallow it."""


def run(wishes: Wishes, environment: Mapping[str, str], say: Say, check: Check) -> None:
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
        tether(os.getppid(), signal.SIGTERM)
    keep_private()
    wishes.state.mkdir(parents=True, exist_ok=True)
    if (wishes.state / LOCK).exists():  # never a folder that was there before us
        close_to_others(wishes.state)
    with _alone_in(wishes.state):
        given = _prepared(look_around(environment, Path.cwd()), say)
        plan = settle(wishes, given)
        _heed(_ask)
        signal.signal(signal.SIGHUP, _ask)
        household = Household(None if wishes.logs_to_stdout else wishes.state / "logs", say)
        try:
            look = partial(look_around, environment, Path.cwd())
            succession = Succession(household, plan, look=look, check=check, say=say)
            succession.begin_with(bring_up(household, plan, say))
            note(wishes.state, plan.noted())
            _exchange_at_hangup(succession)
            household.watch(succession.step)
        except Asked:
            say("\nstopping")
        finally:
            _heed(signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            household.stop()
    say("stopped")


def bring_up(household: Household, plan: Plan, say: Say) -> dict[int, Running]:
    """Starts everything, prints the banner and returns the sidecars; raises `PartDied`."""
    say(f"llm-proxy {__version__} is starting; logs {_place(household)}")
    quick = household.start_all(plan.stores.valkeys(plan.state))
    plan.list_sidecars()
    sidecars = {number: household.start(part) for number, part in plan.sidecars()}
    slow = [*sidecars.values(), *household.start_all(plan.model())]
    household.wait(quick + household.start_all(plan.stores.postgres(plan.state)))
    plan.prepare_database()
    household.wait([*slow, household.start(plan.gateway())])
    say(greeting(plan.base_url(), plan.example_model(), _place(household), plan.given, household.age_s()))
    return sidecars


def _place(household: Household) -> str:
    return f"in {household.logs}/" if household.logs else "on standard output"


def _prepared(given: Surroundings, say: Say) -> Surroundings:
    """Everything given, with the missing secrets made."""
    file = Path.cwd() / ".env"
    made = operator_env.make_missing(given, file)
    if made:
        say(f"made {len(made)} secrets, kept in {file}")
    for warning in given.warnings:
        say(f"warning: {warning}")
    return replace(given, names={**given.names, **made}, files={**given.files, **dict.fromkeys(made, file)})


@contextlib.contextmanager
def _alone_in(state: Path) -> Generator[None]:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(alone_in(state, os.getpid()))
        except Taken:
            raise Refused(
                f"another `llm-proxy up` runs on {state}/: stop it, or name another --state"
            ) from None
        yield


def _heed(reaction: signal.Handlers | Callable[[int, FrameType | None], None]) -> None:
    for wanted in SIGNALS:
        signal.signal(wanted, reaction)


def _ask(_number: int, _frame: FrameType | None) -> None:
    _heed(signal.SIG_IGN)
    raise Asked


def _exchange_at_hangup(succession: Succession) -> None:
    had_a_terminal = sys.stdin is not None and sys.stdin.isatty()

    def hung_up(_number: int, _frame: FrameType | None) -> None:
        if had_a_terminal and not _terminal():
            raise Asked
        succession.ask()

    signal.signal(signal.SIGHUP, hung_up)


def _terminal() -> bool:
    """Whether the terminal this was started from is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True
