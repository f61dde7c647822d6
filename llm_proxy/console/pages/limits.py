"""Limit rules of every scope and kill switches: listed, set, deleted; a rule is simulated before it is saved.

Invariants: the admin API decides, and its error stands at the field; a rule is named by its scope and names,
never by a place in the list; who may only read sees no form.
"""

from typing import get_args
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import OPERATORS, GlobalReader, Operator, Viewer
from llm_proxy.console.console import Console
from llm_proxy.console.forms import (
    BUDGET_PERIODS,
    BUDGET_UNITS,
    FURTHER,
    LIMITS,
    FormState,
    document_of,
    further_fields,
    parse_further_fields,
    set_fields,
    state_of,
    state_of_sent,
)
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.console.pages.key_changes import rejected_by_form
from llm_proxy.console.simulation import RANGES, simulate
from llm_proxy.errors import BadRequest
from llm_proxy.identity.caller import ANY, OnStoreFailure, PolicyMode, ScopeKind
from llm_proxy.identity.policies import KillSwitchKind
from llm_proxy.json_access import Json

TARGET = ("scope", "tenant", "subject", "model")
RULE_FIELDS = (*TARGET, *LIMITS, "duration_s", "budgets", "mode", "on_store_failure")
SWITCH_FIELDS = ("kind", "subject", "tenant", "reason")
SCOPES: dict[str, str] = {
    "key": "one key, or every key",
    "agent": "one agent, or every agent",
    "tenant": "a tenant as a whole",
    "tenant_group": "a tenant's calls of a model",
    "user_model": "a user's calls of a model",
    "provider": "all calls of a provider",
    "global": "all calls",
    "run": "one run of an agent",
}
MODES: tuple[PolicyMode, ...] = get_args(PolicyMode)
FAILURE_MODES: tuple[OnStoreFailure, ...] = get_args(OnStoreFailure)


def router(console: Console) -> APIRouter:
    """Returns the pages' routes."""
    routes = APIRouter()
    _list(routes, console)
    _rule(routes, console)
    _switches(routes, console)
    return routes


def _list(routes: APIRouter, console: Console) -> None:
    @routes.get("/limits")
    async def show(request: Request, viewer: GlobalReader, scope: str = "", tenant: str = "") -> Response:
        found = await viewer.api.get("/admin/limits")
        rules = [
            (one, _rule_query(one))
            for one in found["data"]
            if scope in {"", one["scope"]} and tenant in {"", one["tenant"]}
        ]
        return console.render(
            request,
            viewer,
            "limits.html",
            rules=rules,
            scopes=_scopes(),
            chosen={"scope": scope, "tenant": tenant},
            may_change=_may_change(viewer),
        )


def _rule(routes: APIRouter, console: Console) -> None:
    @routes.get("/limits/rule")
    async def edit(request: Request, viewer: Operator) -> Response:
        wanted = {name: request.query_params.get(name) or None for name in TARGET}
        found = await viewer.api.get("/admin/limits")
        rule = next((one for one in found["data"] if _target(one) == wanted), None)
        form = state_of(
            rule | _target(rule) | {FURTHER: further_fields(rule, (*RULE_FIELDS, "idle"))} if rule else wanted
        )
        return _rule_page(console, request, viewer, form, exists=rule is not None)

    @routes.post("/limits/rule")
    async def save(request: Request, viewer: Operator) -> Response:
        form = await request.form()
        exists = form.get("exists") == "yes"
        try:
            rule = set_fields(document_of(form, RULE_FIELDS)) | parse_further_fields(
                str(form.get(FURTHER) or "")
            )
            if form.get("action") == "simulate":
                found = await simulate(viewer.api, str(form.get("range")), rules=[rule])
                shown = state_of_sent(form)
                return _rule_page(console, request, viewer, shown, exists=exists, result=found)
            await viewer.api.send("PUT", "/admin/limits", rule)
        except (GatewayRejected, BadRequest) as error:
            shown = state_of_sent(form, rejected_by_form(error))
            return _rule_page(console, request, viewer, shown, exists=exists, status=error.status)
        return console.redirect("/limits", notice="The rule holds from now on.")

    @routes.post("/limits/rule/delete")
    async def delete(request: Request, viewer: Operator) -> Response:
        form = await request.form()
        target = {name: str(form.get(name) or "") or None for name in TARGET}
        await viewer.api.send("DELETE", "/admin/limits", parameters=target)
        return console.redirect("/limits", notice="The rule was deleted.")


def _switches(routes: APIRouter, console: Console) -> None:
    def page(
        request: Request, viewer: Viewer, found: Json, form: FormState | None = None, status: int = 200
    ) -> Response:
        return console.render(
            request,
            viewer,
            "switches.html",
            status=status,
            switches=found["data"],
            form=form or FormState(),
            kinds=[(one, one) for one in get_args(KillSwitchKind)],
            may_change=_may_change(viewer),
        )

    @routes.get("/switches")
    async def show(request: Request, viewer: GlobalReader) -> Response:
        given = {name: request.query_params.get(name, "") for name in SWITCH_FIELDS}
        return page(request, viewer, await viewer.api.get("/admin/kill-switches"), FormState(given))

    @routes.post("/switches")
    async def switch_off(request: Request, viewer: Operator) -> Response:
        form = await request.form()
        try:
            await viewer.api.send("PUT", "/admin/kill-switches", set_fields(document_of(form, SWITCH_FIELDS)))
        except GatewayRejected as error:
            shown = state_of_sent(form, rejected_by_form(error))
            found = await viewer.api.get("/admin/kill-switches")
            return page(request, viewer, found, shown, error.status)
        return console.redirect("/switches", notice="Its calls are rejected from now on.")

    @routes.post("/switches/remove")
    async def switch_on(request: Request, viewer: Operator) -> Response:
        form = await request.form()
        named = {name: str(form.get(name) or "") or None for name in ("kind", "subject", "tenant")}
        named["tenant"] = None if named["tenant"] == "*" else named["tenant"]
        await viewer.api.send("DELETE", "/admin/kill-switches", parameters=named)
        return console.redirect("/switches", notice="Its calls are admitted again.")


def _may_change(viewer: Viewer) -> bool:
    return viewer.may(*OPERATORS)


def _scopes() -> list[tuple[str, str]]:
    return [(one, f"{one}: {SCOPES.get(one, one)}") for one in get_args(ScopeKind)]


def _target(rule: Json) -> dict[str, str | None]:
    """Returns what names a rule; a name that holds for all is None."""
    return {name: None if rule[name] == ANY else rule[name] for name in TARGET}


def _rule_query(rule: Json) -> str:
    return urlencode({name: value for name, value in _target(rule).items() if value})


def _rule_page(
    console: Console,
    request: Request,
    viewer: Viewer,
    form: FormState,
    *,
    exists: bool,
    status: int = 200,
    result: Json | None = None,
) -> Response:
    return console.render(
        request,
        viewer,
        "limit_rule.html",
        status=status,
        form=form,
        exists=exists,
        result=result,
        scopes=_scopes(),
        modes=[("", "as the gateway's settings say"), *((one, one) for one in MODES)],
        failure_modes=[("", "as the gateway's settings say"), *((one, one) for one in FAILURE_MODES)],
        ranges=RANGES,
        units=BUDGET_UNITS,
        periods=BUDGET_PERIODS,
    )
