"""The table of checks, and one examination: every check at once, each with its own deadline.

Invariants: a check that fails or takes too long says so and holds no other up; without `--check-providers` an
examination ends within `GATEWAY_S`.
"""

import asyncio
import platform
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from llm_proxy.cli.config import check_text
from llm_proxy.cli.doctor.findings import CheckResult, DoctorFinding, NotChecked, Outcome, finding
from llm_proxy.cli.doctor.machine import check_process_limits, check_secrets, check_settings, check_spool
from llm_proxy.cli.doctor.reach import check_certificates, check_gateway, check_sidecars
from llm_proxy.cli.doctor.releases import judge_release, known_releases
from llm_proxy.cli.doctor.stores import (
    check_backups,
    check_cache_store,
    check_limits_store,
    check_postgres,
    check_providers,
)
from llm_proxy.cli.doctor.subject import Subject
from llm_proxy.sidecar.verify_environment import find_malicious_releases, site_packages_of
from llm_proxy.stack import NotInstalled
from llm_proxy.stack.process_specs import sidecar_python

EXAMINATION_S, GATEWAY_S = 7.0, 9.0
PROVIDERS_S = 300.0
Examine = Callable[[Subject], Outcome | Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """One check of the table.

    Attributes:
        about: What it looks at, for the documentation.
        timeout_s: After which it counts as not made.
    """

    name: str
    about: str
    examine: Examine
    timeout_s: float = EXAMINATION_S


def check_versions(subject: Subject) -> Outcome:
    """Python, the gateway's dependencies, and LiteLLM's environment where it is on this machine."""
    found: Outcome = [*judge_release("python", platform.python_version(), "this machine", subject.today)]
    products = {one["product"] for one in known_releases()["vulnerable"]} - {
        "litellm",
        "postgres",
        "redis",
        "valkey",
    }
    for product in sorted(products):
        try:
            found += judge_release(product, version(product), "the gateway's environment", subject.today)
        except PackageNotFoundError:
            continue
    try:
        packages = site_packages_of(sidecar_python())
        if not packages.is_dir():
            found.append(
                NotChecked("LiteLLM's environment", "it is of another Python; its sidecars report it")
            )
        found += [
            finding("release-malicious", f"{packages}: {line}") for line in find_malicious_releases(packages)
        ]
    except NotInstalled:
        found.append(NotChecked("LiteLLM's environment", "it is not on this machine; its sidecars report it"))
    return found


def check_config(subject: Subject) -> Outcome:
    """What `llm-proxy config check` finds in the sidecars' configuration."""
    file = subject.config
    if not file.is_file():
        return [
            NotChecked(
                "config", f"there is no {file} here; what sidecars report of theirs is under `sidecars`"
            )
        ]
    found: Outcome = []
    for one in check_text(file.read_text(encoding="utf-8"), subject.variables, file.parent):
        if one.is_fault:
            code = "config-prevents-start" if one.prevents_start else "config-fault"
            found.append(finding(code, f"{one.path or file}: {one.message}", file=str(file)))
    return found


CHECKS = (
    DoctorCheck(
        "settings", "combinations that prevent a start; variables that are not settings", check_settings
    ),
    DoctorCheck(
        "secrets", "weak and equal secrets, passwords of stores, files that others can read", check_secrets
    ),
    DoctorCheck(
        "versions",
        "Python, dependencies, LiteLLM's environment; `postgres`, both stores and `sidecars` judge their own",
        check_versions,
    ),
    DoctorCheck(
        "gateway",
        "whether it serves; routes that answer without a key, at the public address too",
        check_gateway,
        GATEWAY_S,
    ),
    DoctorCheck(
        "sidecars",
        "whether they answer, to whom, with which routes, where they listen; LiteLLM's release; clocks",
        check_sidecars,
    ),
    DoctorCheck("config", "what `llm-proxy config check` finds", check_config),
    DoctorCheck(
        "postgres",
        "release, state, rights of both roles, partitions, transactions, connections, copies, clock",
        check_postgres,
    ),
    DoctorCheck(
        "limits-store", "release, eviction, memory, persistence, latency, copies, clock", check_limits_store
    ),
    DoctorCheck("cache-store", "whether it answers; release; room", check_cache_store),
    DoctorCheck("spool", "whether it can be written, its disk, what waits in it", check_spool),
    DoctorCheck("process-limits", "open files and processes of the gateway", check_process_limits),
    DoctorCheck(
        "certificates",
        "when those of stores, sidecars, the public address and the sign-in end",
        check_certificates,
    ),
    DoctorCheck("backups", "the age of the last one", check_backups),
    DoctorCheck(
        "providers",
        "one small call of each model group, with --check-providers",
        check_providers,
        PROVIDERS_S,
    ),
)


async def examine(subject: Subject, only: Collection[str] = ()) -> list[CheckResult]:
    """Returns the result of every check, or of those named, in the order of the table."""
    chosen = (check for check in CHECKS if not only or check.name in only)
    return list(await asyncio.gather(*(_run(check, subject) for check in chosen)))


async def _run(check: DoctorCheck, subject: Subject) -> CheckResult:
    try:
        async with asyncio.timeout(check.timeout_s):
            outcome = await asyncio.to_thread(check.examine, subject)
            found = outcome if isinstance(outcome, list) else await outcome
    except TimeoutError:
        found = [NotChecked(check.name, f"it took longer than {check.timeout_s:.0f} s", is_unknown=True)]
    except Exception as error:  # noqa: BLE001 -- one check that fails holds no other up
        found = [NotChecked(check.name, f"the check failed: {type(error).__name__}", is_unknown=True)]
    findings = tuple(one for one in found if isinstance(one, DoctorFinding))
    return CheckResult(check.name, findings, tuple(one for one in found if isinstance(one, NotChecked)))
