"""`llm-proxy limits`, `explain`, `simulate`: limit policies and their effect on one call or on recorded ones.

Invariants: policies are read and written in the database, and replicas are notified at once; dropping one
asks first. `explain` and `simulate` ask the running gateway, change nothing and call no model; `explain`
exits 1 when the call would be rejected.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

import click
import httpx
import yaml

from llm_proxy.cli.context import (
    admin_client,
    complete_models,
    fetch_if_running,
    gateway_client,
    load_settings,
    request_json,
    url_option,
)
from llm_proxy.cli.database import complete_keys, current_actor, publish_change, run_with_repositories
from llm_proxy.cli.limit_tables import (
    BUDGET_EXAMPLES,
    BUDGET_FORM,
    format_limits,
    limit_options,
    parse_budget,
    parse_guard_options,
    print_limit_status,
)
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    EXIT_WRONG_INPUT,
    Column,
    CommandGroup,
    as_json_option,
    confirm,
    fail,
    print_fields,
    print_result,
    print_table,
    warn,
    yes_option,
)
from llm_proxy.identity import KeyRepository, PolicyRepository
from llm_proxy.identity.admin_documents import parse_policy, parse_policy_target, policy_document
from llm_proxy.identity.caller import OnStoreFailure, PolicyMode, Priority, ScopeKind
from llm_proxy.identity.guard_rules import GuardMode
from llm_proxy.json_access import Json

_POLICY_FIELDS = ("scope", "tenant", "subject", "model")
_POLICY_COLUMNS = ("scope", "tenant", "subject", "model", Column("limits", unbroken=True), "mode", "idle")
_POLICY_OPTIONS = [
    click.option(
        "--scope",
        required=True,
        type=click.Choice(get_args(ScopeKind)),
        help="Whose calls are counted together.",
    ),
    click.option("--tenant", help="The tenant; every tenant by default."),
    click.option(
        "--subject",
        help="The key, agent, user or provider; for runs key:NAME or agent:NAME. Each by default.",
    ),
    click.option("--model", help="The model group, or a wildcard.", shell_complete=complete_models),
]


def _policy_options(of: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_POLICY_OPTIONS):
        of = option(of)
    return of


@click.group(cls=CommandGroup, invoke_without_command=True)
@as_json_option
@click.pass_context
def limits(context: click.Context, /, *, as_json: bool) -> None:
    """List, set and drop limit policies; without a subcommand, list them.

    A key's own limits belong to the key: `llm-proxy keys change`. Reads DATABASE_URL and LIMITS_REDIS_URL
    from the environment, .env or .keys/.
    """
    if context.invoked_subcommand is not None:
        return

    async def list_all(_: KeyRepository, policies: PolicyRepository) -> list[Json]:
        return [policy_document(policy) for policy in await policies.list_policies()]

    print_result(_add_idle(run_with_repositories(list_all)), print_policies, as_json=as_json)


@limits.command("set")
@_policy_options
@limit_options
@click.option(
    "--budget", "budgets", multiple=True, metavar=BUDGET_FORM, help=f"{BUDGET_EXAMPLES}; repeatable."
)
@click.option("--duration-s", type=int, help="For runs: seconds from the first call; 0 for no limit.")
@click.option(
    "--mode", type=click.Choice(get_args(PolicyMode)), help="`shadow` only records what it would reject."
)
@click.option(
    "--on-store-failure",
    type=click.Choice(get_args(OnStoreFailure)),
    help="While the limits store does not answer: deny, allow, or limit each replica to its share.",
)
@click.option(
    "--weight",
    type=int,
    help="For a tenant or key: its share of the slots when calls wait; 100 is the default.",
)
@click.option(
    "--priority",
    type=click.Choice(get_args(Priority)),
    help="For a tenant or key: the highest priority of its calls.",
)
@click.option(
    "--loop-guard",
    type=click.Choice(get_args(GuardMode)),
    help="What the loop guard does with runs that repeat themselves.",
)
@click.option(
    "--guard-option",
    "guard_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="A threshold of the loop guard, such as repeats=8, quarantine_s=60 or notice=true; repeatable.",
)
@as_json_option
def set_policy(
    *,
    as_json: bool,
    budgets: tuple[str, ...],
    guard_options: tuple[str, ...],
    **options: Any,  # noqa: ANN401 -- click's options
) -> None:
    """Set the limit policy of a scope and subject, in place of an earlier one."""
    documents = [parse_budget(text) for text in budgets]
    if None in documents:
        wrong = budgets[documents.index(None)]
        raise click.BadParameter(
            f"{wrong!r} is not {BUDGET_FORM}, such as {BUDGET_EXAMPLES}.", param_hint="'--budget'"
        )

    guard = parse_guard_options(options.pop("loop_guard"), guard_options)

    async def upsert(_: KeyRepository, policies: PolicyRepository) -> Json:
        policy = parse_policy(_set_fields(options) | {"budgets": documents} | guard)
        await publish_change(await policies.upsert(policy, current_actor()))
        return policy_document(policy)

    [document] = _add_idle([run_with_repositories(upsert)])
    if document["idle"]:
        warn(f"this limit policy covers no call: {document['idle']}")
    print_result(document, print_fields, as_json=as_json)


@limits.command("drop")
@_policy_options
@as_json_option
@yes_option
def drop_policy(*, as_json: bool, yes: bool, **options: str | None) -> None:
    """Remove the limit policy of a scope and subject."""
    target = _set_fields(options)
    confirm(f"Remove the limit policy of {' '.join(target.values())}?", yes=yes)

    async def delete(_: KeyRepository, policies: PolicyRepository) -> None:
        await publish_change(await policies.delete(parse_policy_target(target), current_actor()))

    run_with_repositories(delete)
    print_result({"dropped": True}, lambda _: click.echo("the limit policy is removed"), as_json=as_json)


def print_policies(policies: Iterable[Json]) -> None:
    """Prints one line a limit policy, more if it has several limits."""
    print_table(_POLICY_COLUMNS, [_policy_row(one) for one in policies])


def _add_idle(policies: Iterable[Json]) -> list[Json]:
    """Adds `idle`: why a policy covers no call; None if it may cover some, or if no gateway answers."""
    listed = (fetch_if_running("/admin/limits") or {"data": []})["data"]
    idle = {tuple(one[name] for name in _POLICY_FIELDS): one["idle"] for one in listed}
    return [one | {"idle": idle.get(tuple(one[name] for name in _POLICY_FIELDS))} for one in policies]


def _set_fields(options: Mapping[str, Any]) -> Json:
    return {name: value for name, value in options.items() if value is not None}


def _policy_row(one: Json) -> tuple[str, ...]:
    target = (one[name] if one[name] is not None else "" for name in ("tenant", "subject", "model"))
    return one["scope"], *target, format_limits(one), one["mode"] or "", one.get("idle") or ""


EXPLAIN_TIMEOUT_S = 15
_EXPLAINED: dict[str, Callable[[str], Json]] = {
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}]},
    "/v1/embeddings": lambda text: {"input": text},
    "/v1/rerank": lambda text: {"query": text, "documents": [text]},
    "/v1/moderations": lambda text: {"input": text},
    "/v1/images/generations": lambda text: {"prompt": text},
    "/v1/images/edits": lambda text: {"prompt": text},
    "/v1/audio/speech": lambda text: {"input": text, "voice": "alloy"},
    "/v1/audio/transcriptions": lambda text: {"prompt": text},
}
"""A path -> the body of its smallest call; the first path that serves the model is explained."""
_NOT_SERVED_THERE = frozenset({"model_not_supported", "endpoint_not_served"})


@click.command
@click.option("--key", help="The key that calls, by its name, id or prefix.", shell_complete=complete_keys)
@click.option("--tenant", help="The tenant, where a trusted service calls instead of a key.")
@click.option("--agent", help="The agent that calls.")
@click.option("--user", help="The end user of the call.")
@click.option("--run", help="The run of the call.")
@click.option("--model", required=True, help="The model that is called.", shell_complete=complete_models)
@click.option("--prompt", default="Hello", show_default=True, help="The prompt; its length is what counts.")
@click.option("--max-tokens", type=click.IntRange(1), help="The `max_tokens` of a chat.")
@as_json_option
@url_option
def explain(*, key: str | None, as_json: bool, url: str | None, **options: Any) -> None:  # noqa: ANN401 -- click's options
    """Show whether a call would be admitted, and its status at each limit and budget.

    The call is a chat, or the smallest call that the model serves: one image, one document to rank.

    With --key it reads LLM_PROXY__ADMIN_KEY, else LLM_PROXY__INTERNAL_API_KEY, from the environment, .env or
    .keys/.
    """
    with _explain_client(url, key) as client:
        named = ("tenant", "agent", "user", "run")
        subject = {f"x-{name}-id": options[name] for name in named if options[name]}
        client.headers.update(subject)
        decision = _find_decision(client, {} if key is None else {"key": key}, options)
    print_result(decision, _print_decision, as_json=as_json)
    sys.exit(0 if decision["verdict"] == "admitted" else EXIT_FAILED)


def _find_decision(client: httpx.Client, query: Mapping[str, str], options: Mapping[str, Any]) -> Json:
    """Returns the decision on the smallest call of a model, at the first path that serves it."""
    decisions: list[Json] = []
    for path, body_of in _EXPLAINED.items():
        body: Json = {"model": options["model"], **body_of(options["prompt"])}
        if options["max_tokens"] is not None and not decisions:
            body["max_tokens"] = options["max_tokens"]
        url = httpx.URL("/v1/explain", params={"path": path, **query})
        decisions.append(request_json(client, "POST", str(url), body))
        refusal: Json = decisions[-1].get("refusal") or {}
        if refusal.get("code") not in _NOT_SERVED_THERE:
            return decisions[-1]
    return decisions[0]


def _explain_client(url: str | None, key: str | None) -> httpx.Client:
    if key is not None:
        return admin_client(url, timeout_s=EXPLAIN_TIMEOUT_S)
    settings = load_settings()
    if not settings.internal_keys:
        fail(
            "LLM_PROXY__INTERNAL_API_KEY is not set; use --key NAME for a virtual key",
            EXIT_WRONG_INPUT,
        )
    return gateway_client(settings, settings.internal_keys[0], url, timeout_s=EXPLAIN_TIMEOUT_S)


def _queue_text(queue: Json | None) -> str | None:
    if queue is None:
        return None
    return "{priority}, weight of the tenant {tenant_weight}, of the key {key_weight}".format(**queue)


def _print_decision(decision: Json) -> None:
    error: Json = decision.get("refusal") or {}
    print_fields(
        {
            "verdict": decision["verdict"],
            "why": error.get("message"),
            "status": error.get("status"),
            "code": error.get("code"),
            "retry after s": error.get("retry_after_s"),
            "model": decision.get("model"),
            "group": decision.get("group"),
            "endpoint": decision.get("door"),
            "queue": _queue_text(decision.get("queue")),
        }
    )
    if decision.get("limits"):
        click.echo()
        print_limit_status(decision["limits"])


SIMULATE_TIMEOUT_S = 120


@click.command(context_settings={"show_default": True})
@click.option("--since", default="24h", help="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")
@click.option("--until", default="now", help="The same.")
@as_json_option
@url_option
@click.argument("rules", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
def simulate(*, since: str, until: str, as_json: bool, url: str | None, rules: Path) -> None:
    """Replay recorded calls against the changes in RULES: how many would be rejected, and their cost.

    RULES is YAML (- for standard input) with rules, keys, default_models and prices, as in POST
    /admin/simulate. Reads LLM_PROXY__ADMIN_KEY or LLM_PROXY__ADMIN_READ_KEY from the environment, .env or
    .keys/.
    """
    body = _read_changes(rules) | {"since": since, "until": until}
    with admin_client(url, timeout_s=SIMULATE_TIMEOUT_S, read_only=True) as client:
        result = request_json(client, "POST", "/admin/simulate", body)
    print_result(result, _show_simulation, as_json=as_json)


def _read_changes(file: Path) -> Json:
    text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    try:
        document: object = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        fail(f"{file}: not YAML: {' '.join(str(fault).split())[:200]}", EXIT_WRONG_INPUT)
    if not isinstance(document, dict):
        fail(f"{file}: expected rules, keys, default_models or prices", EXIT_WRONG_INPUT)
    return cast("Json", document)


def _show_simulation(result: Json) -> None:
    limits, callers = result.pop("refused_by"), result.pop("refused_callers")
    not_replayed = result.pop("not_replayed")
    print_fields(result)
    for rows, names in (
        (limits, ("code", "scope", "subject", "kind")),
        (callers, ("key", "tenant", "agent", "user")),
    ):
        if rows:
            click.echo()
            columns: list[Column | str] = [
                *names,
                Column("calls", number=True),
                Column("first (UTC)", unbroken=True),
            ]
            print_table(columns, [_simulation_row(one, names) for one in rows])
    click.echo(f"\n{not_replayed['note']} In it: {not_replayed['refused_then_in_sample']}.")


def _simulation_row(one: Json, names: tuple[str, ...]) -> list[str]:
    return [*(one[name] or "-" for name in names), str(one["calls"]), one["first_at"][:19]]
