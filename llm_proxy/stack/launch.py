"""`llm-proxy up` from start to end: plan, start every process, print the banner, supervise, stop everything.

Invariants: one launcher a state folder; however the launcher ends, no process is left; the slowest processes
start first. The first stop signal lets the running calls end while everything they need stays, the second
ends them. SIGHUP requests a rolling restart, or the stop when the terminal was closed.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from llm_proxy import __version__
from llm_proxy.hardening import harden_process, raise_files_limit, restrict_to_owner
from llm_proxy.settings import unknown_settings
from llm_proxy.stack.operator_env import (
    OperatorEnv,
    append_to_dotenv,
    new_secrets,
    read_operator_env,
)
from llm_proxy.stack.plan import ReadyStack, StackPlan, UpOptions, banner, make_plan
from llm_proxy.stack.process import ManagedProcess, die_with_parent
from llm_proxy.stack.process_specs import sign_in_link
from llm_proxy.stack.rolling_restart import CheckConfig, RollingRestart
from llm_proxy.stack.self_check import check_chain, served_models
from llm_proxy.stack.state_dir import LOCK_FILE, exclusive, write_addresses
from llm_proxy.stack.supervisor import PrintLine, Supervisor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(BaseException):
    """A signal ended the start; a `BaseException`, so that no `except Exception` swallows it."""


class StopSignals:
    """Counts what requests the stop: SIGINT, SIGTERM, and SIGHUP of a terminal that was closed.

    Attributes:
        count: The first requests a drain, the second an end at once.
        interrupts: Whether the first raises `StopRequested`: a start waits for minutes.
    """

    def __init__(self) -> None:
        self.count = 0
        self.interrupts = True

    def listen(self, on_reload: Callable[[], None]) -> None:
        """Counts from now on; any other SIGHUP calls `on_reload`."""
        had_terminal = sys.stdin is not None and sys.stdin.isatty()

        def on_hangup(number: int, frame: FrameType | None) -> None:
            if had_terminal and not _has_terminal():
                self._note(number, frame)
            else:
                on_reload()

        _react((signal.SIGHUP,), on_hangup)
        _react(STOP_SIGNALS, self._note)

    def ignore(self) -> None:
        """Ignores them from now on."""
        _react((*STOP_SIGNALS, signal.SIGHUP), signal.SIG_IGN)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.interrupts:
            self.interrupts = False
            raise StopRequested


def _react(
    numbers: tuple[signal.Signals, ...],
    reaction: signal.Handlers | Callable[[int, FrameType | None], None],
) -> None:
    for number in numbers:
        signal.signal(number, reaction)


def run(
    options: UpOptions, environment: Mapping[str, str], print_line: PrintLine, check_config: CheckConfig
) -> None:
    """Runs the stack until SIGINT or SIGTERM, then until its running calls have ended.

    Args:
        options: From the command line.
        environment: The environment of this process.
        print_line: Prints a line for the operator.
        check_config: Checks a configuration before it replaces the running one.

    Raises:
        StartRefused, AlreadyRunning, NotInstalled: The stack cannot start; the message gives the reason.
        ProcessFailed: A process did not become ready, or failed too often.
        pydantic.ValidationError: A setting is wrong.
    """
    print_line = partial(_print_if_possible, print_line)
    if options.with_parent:
        die_with_parent(os.getppid(), signal.SIGTERM)
    harden_process()
    raise_files_limit()
    if not options.state.exists():  # a start that cannot work leaves nothing behind
        make_plan(options, _completed(read_operator_env(environment, Path.cwd())))
    options.state.mkdir(parents=True, exist_ok=True)
    if (options.state / LOCK_FILE).exists():  # never a folder that existed before the first `up`
        restrict_to_owner(options.state)
    with exclusive(options.state, os.getpid()):
        given = read_operator_env(environment, Path.cwd())
        plan = make_plan(options, _completed(given))
        _keep_new_secrets(given, plan.operator_env, print_line)
        supervisor = Supervisor(None if options.logs_to_stdout else options.state / "logs", print_line)
        stops = StopSignals()
        try:
            restart = RollingRestart(
                supervisor,
                plan,
                read_operator_env=partial(read_operator_env, environment, Path.cwd()),
                check_config=check_config,
                print_line=print_line,
            )
            _serve(supervisor, plan, restart, stops, print_line)
        finally:
            stops.ignore()
            supervisor.stop_all()
    print_line("stopped")


def _print_if_possible(print_line: PrintLine, line: str) -> None:
    """Prints a line; that the terminal or pipe is gone stops nothing."""
    with contextlib.suppress(OSError):
        print_line(line)


def _serve(
    supervisor: Supervisor,
    plan: StackPlan,
    restart: RollingRestart,
    stops: StopSignals,
    print_line: PrintLine,
) -> None:
    """Starts and supervises the stack until a stop signal, then lets the gateway's running calls end."""
    try:
        stops.listen(on_reload=restart.request)
        start_all(supervisor, plan, print_line)
        write_addresses(plan.state, plan.published_addresses())
        stops.interrupts = False
        supervisor.run(restart.tick, lambda: stops.count > 0)
    except StopRequested:
        pass
    finally:
        stops.interrupts = False
        print_line("\nstopping")
        restart.stop()
        plan.listener.close()  # the gateway has its own
        supervisor.drain_gateway(plan.drain_limit_s(), restart.tick, lambda: stops.count > 1)


def start_all(supervisor: Supervisor, plan: StackPlan, print_line: PrintLine) -> None:
    """Starts everything and prints the banner; raises `ProcessFailed`."""
    logs = f"in {supervisor.logs}/" if supervisor.logs else "on standard output"
    print_line(f"llm-proxy {__version__} is starting; logs {logs}")
    quick = supervisor.start_all(plan.stores.valkey_specs(plan.state))
    plan.write_sidecar_list()
    slow = supervisor.start_all([plan.sidecars_spec(), *plan.model_specs()])
    supervisor.wait_until_ready(quick + supervisor.start_all(plan.stores.postgres_specs(plan.state)))
    plan.migrate_database()
    console = plan.console_spec()
    started = supervisor.start(console) if console else None
    supervisor.wait_until_ready([*slow, supervisor.start(plan.gateway_spec())])
    shown = _console_line(started, plan.console_off, is_development=plan.is_development)
    seconds, gateway = supervisor.uptime_s(), plan.running_gateway()
    models = served_models(gateway)
    checked = list(check_chain(gateway, models))
    ready = ReadyStack(plan.base_url(), checked, models, plan.default_model(), shown, logs, seconds)
    print_line(banner(ready, plan.operator_env))


def _console_line(console: ManagedProcess | None, off: str | None, *, is_development: bool) -> str:
    """Where the console is: in development a link that signs in once; output that is kept shall hold none."""
    if console is None:
        return f"off ({off})"
    link = sign_in_link(console.spec) if is_development else None
    return (
        f"{link}  (signs in once)" if link else "`llm-proxy console --link` prints a link that signs in once"
    )


def _completed(env: OperatorEnv) -> OperatorEnv:
    """Returns the environment with a new value for each missing secret, as if it stood in `.env`."""
    created = new_secrets(env)
    files = {**env.files, **dict.fromkeys(created, Path.cwd() / ".env")}
    return replace(env, variables={**env.variables, **created}, files=files)


def _keep_new_secrets(given: OperatorEnv, completed: OperatorEnv, print_line: PrintLine) -> None:
    """Writes the new secrets into `.env`, and prints the warnings."""
    file = Path.cwd() / ".env"
    created = {
        name: completed.variables[name] for name in completed.variables.keys() - given.variables.keys()
    }
    if created:
        append_to_dotenv(file, created)
        print_line(f"created {len(created)} secrets in {file}")
    for warning in (*given.warnings, *unknown_settings(given.variables)):
        print_line(f"warning: {warning}")


def _has_terminal() -> bool:
    """Whether the controlling terminal is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True
