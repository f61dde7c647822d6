"""`llm-proxy doctor`: examines an installation and says what is wrong, why it matters and how it is mended.

Invariants: it changes nothing, costs nothing unless `--check-providers` is given, and prints no secret. What
could not be looked at is printed with the reason, never as in order. Exit codes: 0 nothing found, 1 findings,
3 nothing found but something could not be looked at.
"""

import asyncio
import os
import sys
from pathlib import Path

import click
from pydantic import ValidationError

from llm_proxy.cli.context import gateway_url, operator_env, stack_addresses, url_option
from llm_proxy.cli.doctor.examine import CHECKS, examine
from llm_proxy.cli.doctor.findings import CheckResult, NotChecked, finding
from llm_proxy.cli.doctor.subject import Subject
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    EXIT_UNAVAILABLE,
    Column,
    as_json_option,
    print_result,
    print_table,
)
from llm_proxy.json_access import Json
from llm_proxy.setting_sources import PREFIX
from llm_proxy.settings import Settings, load, setting_errors
from llm_proxy.stack import state_dir
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.plan import DEFAULT_CONFIG

_STORES = ("database_url", "limits_redis_url", "cache_redis_url")


@click.command
@as_json_option
@url_option
@click.option("--public-url", help="The address that callers use, to see what the proxy in front passes on.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(DEFAULT_CONFIG),
    help=f"The sidecars' configuration [default: {DEFAULT_CONFIG}].",
)
@click.option("--check-providers", is_flag=True, help="Call each model group once; this can cost money.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([one.name for one in CHECKS]),
    help="Only this check; repeatable.",
)
def doctor(
    *,
    as_json: bool,
    url: str | None,
    public_url: str | None,
    config_file: Path,
    check_providers: bool,
    only: tuple[str, ...],
) -> None:
    """Examine this installation: print what is wrong, why it matters and how to mend it.

    Reads the settings from the environment, .env and .keys/, and the stack that runs in this folder. Exit
    code 0: nothing found; 1: findings; 3: nothing found, but something could not be looked at.
    """
    env = operator_env()
    try:
        subject = _subject(env, url, public_url, config_file, checks_providers=check_providers)
        results = asyncio.Runner().run(examine(subject, only))
    except ValidationError as fault:
        results = _unreadable_settings(fault)
    print_result(_document(results), _print_report, as_json=as_json)
    states = {one.state for one in results}
    code = EXIT_FAILED if "findings" in states else EXIT_UNAVAILABLE if "unknown" in states else 0
    sys.stdout.flush()
    os._exit(code)  # not held up by a look-up of a name, or a file, that hangs in a thread


def _subject(
    env: OperatorEnv, url: str | None, public_url: str | None, config: Path, *, checks_providers: bool
) -> Subject:
    """Returns what is examined; raises `ValidationError`."""
    state = Path(os.environ.get(state_dir.STATE_VARIABLE, ".local"))
    pid = state_dir.running_pid(state)
    addresses = stack_addresses()
    settings = _settings(env, addresses, is_stack=pid is not None)
    return Subject(
        settings=settings,
        env=env,
        config=config,
        gateway_url=gateway_url(settings, url),
        public_url=public_url.rstrip("/").removesuffix("/v1") if public_url else None,
        state=state if pid is not None else None,
        launcher_pid=pid,
        checks_providers=checks_providers,
        variables={**addresses, **env.variables},
    )


def _settings(env: OperatorEnv, addresses: dict[str, str], *, is_stack: bool) -> Settings:
    """Returns the settings of the gateway that runs here, or would; raises `ValidationError`."""
    settings = load()
    known = {
        name: addresses.get(PREFIX + name.upper()) for name in _STORES if getattr(settings, name) is None
    }
    if is_stack and env.is_development:
        known["environment"] = "development"
    return load(**known) if known else settings


def _unreadable_settings(fault: ValidationError) -> list[CheckResult]:
    """Returns the results where no gateway could start: only the settings are judged."""
    wrong = tuple(
        finding("setting-wrong", line, name=line.partition(":")[0]) for line in setting_errors(fault)
    )
    rest = [one.name for one in CHECKS if one.name != "settings"]
    missing = [
        CheckResult(name, (), (NotChecked(name, "a setting is wrong", is_unknown=True),)) for name in rest
    ]
    return [CheckResult("settings", wrong, ()), *missing]


def _document(results: list[CheckResult]) -> Json:
    return {
        "checks": [{"check": one.check, "state": one.state} for one in results],
        "findings": [
            {"check": one.check, "code": found.code, "severity": found.severity, "what": found.what}
            | {"why": found.why, "mend": found.mend}
            for one in results
            for found in one.findings
        ],
        "not_checked": [
            {"check": one.check, "what": left.what, "reason": left.reason, "unknown": left.is_unknown}
            for one in results
            for left in one.not_checked
        ],
    }


def _print_report(document: Json) -> None:
    print_table(
        [Column("check", unbroken=True), Column("state", unbroken=True), "not looked at"],
        [(one["check"], one["state"], _left_out(document, one["check"])) for one in document["checks"]],
    )
    found: list[Json] = sorted(document["findings"], key=lambda one: one["severity"] != "critical")
    for one in found:
        click.echo(f"\n{one['severity']}  {one['code']}: {one['what']}")
        click.echo(f"  why   {one['why']}")
        click.echo(f"  mend  {one['mend']}")
    critical = sum(one["severity"] == "critical" for one in found)
    unknown = sum(one["unknown"] for one in document["not_checked"])
    click.echo(f"\n{critical} critical, {len(found) - critical} warnings; {unknown} could not be looked at")


def _left_out(document: Json, check: str) -> str:
    left = (one for one in document["not_checked"] if one["check"] == check)
    return "; ".join(
        one["reason"] if one["what"] == check else f"{one['what']}: {one['reason']}" for one in left
    )
