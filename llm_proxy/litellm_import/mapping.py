"""LiteLLM's rows become keys, policies and kill switches of ours.

Pure. A team becomes a tenant, and a person's own keys a tenant of that person (`user:ID`), because LiteLLM
limits people only there; an end user (`user` of a body) becomes a user. Invariant: what limits or protects,
and has no counterpart, is noted as lost, by the row's name; nothing is dropped in silence.
"""

import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from llm_proxy.identity import ANY, KeySpec, KillSwitch, LimitPolicy
from llm_proxy.identity.admin_documents import MAX_NAMES
from llm_proxy.identity.caller import MAX_TAG_CHARS, MAX_TAGS
from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.litellm_import.limits import (
    NO_REQUESTS,
    Allowance,
    model_allowances,
    read_allowance,
    stricter,
)
from llm_proxy.litellm_import.model_lists import ALL_TEAM_MODELS, NO_DEFAULT_MODELS, AccessGroups, intersect
from llm_proxy.litellm_import.names import clean_name, unique_names
from llm_proxy.litellm_import.plan import ImportPlan, PlannedKey, PlannedPolicy, PlannedSwitch
from llm_proxy.litellm_import.source import KEYS, UNREAD, SourceRows, json_column

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DASHBOARD_TEAM = "litellm-dashboard"
"""The team of the keys that LiteLLM's UI gives to who logs in."""
_ADMINS = ("proxy_admin", "proxy_admin_viewer")
_NOBODY = {None, "", "default_user_id"}
_EVERY_CALL = frozenset({"llm_api_routes", "openai_routes", "*", "/*", "/v1/*"})
_SOME_CALLS = ("/chat/completions", "/completions", "/embeddings", "/responses", "/messages")
_PROTECTING_METADATA = {
    "guardrails": "its guardrails",
    "enforced_params": "the parameters its callers must send",
    "allowed_ips": "the addresses it may be used from",
    "temp_budget_increase": "its temporary budget increase",
}


def plan_import(rows: SourceRows, config: Json | None = None, master_key_digest: str = "") -> ImportPlan:
    """Returns what an import of these rows makes.

    Args:
        rows: Of the LiteLLM proxy.
        config: Its configuration file, whose models' access groups keys may name.
        master_key_digest: The SHA-256 of its master key, which is no virtual key.
    """
    return _Mapping(rows, AccessGroups.read(rows, config or {}), master_key_digest).run()


class _Mapping:
    """One import; holds the rows and the plan they become."""

    def __init__(self, rows: SourceRows, groups: AccessGroups, master_key_digest: str) -> None:
        self._rows, self._groups, self._master_key_digest = rows, groups, master_key_digest
        self._now: datetime = rows.read_at
        self._plan = ImportPlan()
        self._teams = rows.by("LiteLLM_TeamTable", "team_id")
        self._users = rows.by("LiteLLM_UserTable", "user_id")
        self._budgets = rows.by("LiteLLM_BudgetTable", "budget_id")
        self._projects = rows.by("LiteLLM_ProjectTable", "project_id")
        self._organisations = rows.by("LiteLLM_OrganizationTable", "organization_id")
        self._members = {(row["team_id"], row["user_id"]): row for row in rows.of("LiteLLM_TeamMembership")}
        self._tenants = unique_names(
            (str(team_id), team.get("team_alias") or team_id) for team_id, team in self._teams.items()
        )
        self._keys = [row for row in rows.of(KEYS) if self._is_callers(row)]
        self._names = unique_names((row["token"], _key_name(row)) for row in self._keys)
        self._keys_of_member = Counter((row.get("team_id"), row.get("user_id")) for row in self._keys)

    def run(self) -> ImportPlan:
        for team_id, team in self._teams.items():
            self._add_team(str(team_id), team)
        for user_id, user in self._users.items():
            self._add_person(str(user_id), user)
        for row in self._rows.of("LiteLLM_EndUserTable"):
            self._add_end_user(row)
        self._add_members()
        former = self._former_secrets()
        for row in self._keys:
            self._add_key(row, former.get(row["token"], ()))
        self._note_unsupported()
        self._settle_aliases()
        return self._plan

    def _is_callers(self, row: Json) -> bool:
        token, name = str(row["token"]), f"key {_key_name(row)}"
        if row.get("team_id") == _DASHBOARD_TEAM or token == self._master_key_digest:
            return False
        if not _DIGEST.fullmatch(token):
            self._plan.note(
                "note", name, "not imported: it is no SHA-256, and LiteLLM would not accept it either"
            )
            return False
        routes = {str(route) for route in as_list(row.get("allowed_routes"))}
        if routes and routes.isdisjoint(_EVERY_CALL):
            if not any(call in route for call in _SOME_CALLS for route in routes):
                self._plan.note(
                    "note", name, "not imported: it calls no model; see `llm-proxy admin-keys create`"
                )
                return False
            self._plan.note(
                "lost", name, f"it may call only {', '.join(sorted(routes))}; here it may call every route"
            )
        return True

    def _tenant_of(self, row: Json) -> str | None:
        team_id, user_id = row.get("team_id"), row.get("user_id")
        if team_id:
            return self._tenants.get(str(team_id)) or clean_name(team_id)
        return None if user_id in _NOBODY else clean_name(f"user:{user_id}")

    def _add_policy(self, source_id: str, policy: LimitPolicy, allowance: Allowance) -> None:
        if allowance.is_empty:
            return
        if "*" in policy.subject.strip(ANY) or (policy.tenant != ANY and "*" in policy.tenant):
            self._plan.note("lost", source_id, "its limits: its name holds `*`, which no policy's may")
            return
        made = LimitPolicy(
            policy.scope, policy.tenant, policy.subject, policy.group, allowance.limits, allowance.budgets
        )
        self._plan.policies.append(PlannedPolicy(source_id, made, allowance.opening, allowance.spend_mark))

    def _add_tenant(self, source_id: str, tenant: str, row: Json, label: str) -> None:
        allowance = read_allowance(row, label, self._plan, self._now)
        self._add_policy(source_id, LimitPolicy("tenant", tenant, tenant), allowance)
        for model, one in model_allowances(row, label, self._plan, self._now).items():
            self._add_policy(f"{source_id} {model}", LimitPolicy("tenant_group", tenant, tenant, model), one)

    def _add_team(self, team_id: str, team: Json) -> None:
        tenant = self._tenants[team_id]
        label = f"team {tenant}"
        self._add_tenant(f"team {team_id}", tenant, team, label)
        if team.get("blocked"):
            switch = KillSwitch("tenant", tenant)
            self._plan.switches.append(PlannedSwitch(f"team {team_id}", switch, "blocked in LiteLLM"))
        model_table = self._rows.by("LiteLLM_ModelTable", "id").get(team.get("model_id"), {})
        self._note_aliases(label, model_table.get("aliases"))
        self._note_metadata(label, team)

    def _add_person(self, user_id: str, user: Json) -> None:
        label = f"user {user_id}"
        if user.get("user_role") in _ADMINS:
            self._plan.note(
                "note", label, "an admin of LiteLLM: give them a key of `llm-proxy admin-keys create`"
            )
        if user_id in _NOBODY:
            return
        before = len(self._plan.policies)
        self._add_tenant(label, clean_name(f"user:{user_id}"), user, label)
        teams = [
            team
            for (team, member), count in self._keys_of_member.items()
            if member == user_id and team and count
        ]
        if teams and len(self._plan.policies) > before:
            message = (
                "its own limits hold for its own keys, which are a tenant; its teams' keys have the team's"
            )
            self._plan.note("changed", label, message)

    def _add_end_user(self, row: Json) -> None:
        user_id = str(row["user_id"])
        label = f"end user {user_id}"
        budget = self._budgets.get(row.get("budget_id"), {}) | {"spend": row.get("spend")}
        allowance = read_allowance(budget, label, self._plan, self._now)
        if row.get("blocked"):
            allowance = Allowance(allowance.limits, (NO_REQUESTS,))
        user = clean_name(user_id)
        self._add_policy(label, LimitPolicy("user_model", subject=user), allowance)
        for model, one in model_allowances(budget, label, self._plan, self._now).items():
            self._add_policy(f"{label} {model}", LimitPolicy("user_model", subject=user, group=model), one)
        if not allowance.is_empty:
            self._plan.note(
                "changed", label, "counted at each model and in each tenant apart; LiteLLM adds them up"
            )
        for name in ("models", "allowed_model_region", "default_model"):
            if row.get(name):
                self._plan.note(
                    "lost", label, f"its {name}: an end user has no list of models or regions here"
                )

    def _add_members(self) -> None:
        for (team_id, user_id), row in self._members.items():
            allowance = self._member_allowance(row, noting=True)
            keys = self._keys_of_member[team_id, user_id]
            tenant = self._tenants.get(str(team_id))
            if keys < 2 or tenant is None:
                continue
            source_id = f"member {user_id} of team {team_id}"
            policy = LimitPolicy("user_model", tenant, clean_name(user_id))
            self._add_policy(source_id, policy, allowance)
            if not allowance.is_empty:
                message = f"its {keys} keys act for user {user_id} alone, counted at each model apart"
                self._plan.note("changed", f"member {user_id} of team {tenant}", message)

    def _member_allowance(self, row: Json | None, *, noting: bool = False) -> Allowance:
        budget = self._budgets.get(row.get("budget_id")) if row else None
        if row is None or budget is None:
            return Allowance()
        label = f"member {row['user_id']} of team {self._tenants.get(str(row['team_id']), row['team_id'])}"
        plan = self._plan if noting else ImportPlan()
        return read_allowance(budget | {"spend": row.get("spend")}, label, plan, self._now)

    def _add_key(self, row: Json, former: Iterable[tuple[str, datetime]]) -> None:
        name = self._names[row["token"]]
        label = f"key {name}"
        allowance = self._key_allowance(row, label)
        member = row.get("team_id"), row.get("user_id")
        user = None
        limits_of_member = self._member_allowance(self._members.get(member))
        if not limits_of_member.is_empty and self._keys_of_member[member] == 1:
            allowance = stricter(allowance, limits_of_member)
        elif not limits_of_member.is_empty:
            user = clean_name(row["user_id"])
        spec = KeySpec(
            name,
            self._tenant_of(row),
            user=user,
            models=self._models(row, label),
            limits=allowance.limits,
            budgets=allowance.budgets,
            expires_at=row.get("expires"),
            tags=self._tags(row, label),
        )
        project = self._projects.get(row.get("project_id"), {})
        blocked = bool(row.get("blocked")) or bool(project.get("blocked"))
        planned = PlannedKey(
            row["token"], spec, tuple(former), blocked, allowance.opening, allowance.spend_mark
        )
        self._plan.keys.append(planned)
        self._note_key(row, label, project)

    def _key_allowance(self, row: Json, label: str) -> Allowance:
        """Returns a key's limits; where it has none of its own, those of the budget that it names."""
        shared = self._budgets.get(row.get("budget_id"), {})
        names = ("max_budget", "soft_budget", "max_parallel_requests", "tpm_limit", "rpm_limit", "tpd_limit")
        merged = row | {name: shared.get(name) for name in names if row.get(name) is None}
        if row.get("max_budget") is None and shared.get("max_budget") is not None:
            merged |= {name: shared.get(name) for name in ("budget_duration", "budget_reset_at")}
        for model in model_allowances(row, label, ImportPlan(), self._now):
            self._plan.note(
                "lost", label, f"its own limit at the model {model}: a key has limits for all its models"
            )
        return read_allowance(merged, label, self._plan, self._now)

    def _models(self, row: Json, label: str) -> tuple[str, ...] | None:
        team = self._teams.get(row.get("team_id"), {})
        of_team = self._groups.expand(as_list(team.get("models")), as_list(team.get("access_group_ids")))
        own = as_list(row.get("models"))
        found = (
            of_team
            if ALL_TEAM_MODELS in own
            else self._groups.expand(own, as_list(row.get("access_group_ids")))
        )
        found = intersect(found, of_team)
        if not row.get("team_id"):
            found = intersect(
                found, self._groups.expand(as_list(self._users.get(row.get("user_id"), {}).get("models")))
            )
        organisation = team.get("organization_id") or row.get("organization_id")
        member = self._members.get((row.get("team_id"), row.get("user_id")), {})
        narrowing = (
            self._projects.get(row.get("project_id"), {}).get("models"),
            self._organisations.get(organisation, {}).get("models"),
            self._budgets.get(member.get("budget_id"), {}).get("allowed_models"),
        )
        for names in narrowing:
            found = intersect(found, self._groups.expand(as_list(names)))
        if found is None:
            return (ANY,)
        if not found and NO_DEFAULT_MODELS not in own:
            self._plan.note(
                "changed", label, "its lists of models have nothing in common: it may use no model"
            )
        if len(found) > MAX_NAMES:
            self._plan.note("changed", label, f"only {MAX_NAMES} of its {len(found)} models are kept")
        return tuple(clean_name(name) for name in found[:MAX_NAMES])

    def _tags(self, row: Json, label: str) -> tuple[str, ...]:
        given = [str(tag).strip() for tag in as_list(as_object(json_column(row.get("metadata"))).get("tags"))]
        kept = [
            tag for tag in given if tag and len(tag) <= MAX_TAG_CHARS and tag.isprintable() and "," not in tag
        ]
        tags = tuple(dict.fromkeys(kept))[:MAX_TAGS]
        if len(tags) < len(set(given)):
            self._plan.note("changed", label, f"{len(set(given)) - len(tags)} of its tags are not kept")
        return tags

    def _former_secrets(self) -> dict[str, list[tuple[str, datetime]]]:
        found: dict[str, list[tuple[str, datetime]]] = {}
        for row in self._rows.of("LiteLLM_DeprecatedVerificationToken"):
            if row["revoke_at"] > self._now and _DIGEST.fullmatch(str(row["token"])):
                found.setdefault(row["active_token_id"], []).append((row["token"], row["revoke_at"]))
        return found

    def _note_key(self, row: Json, label: str, project: Json) -> None:
        self._note_metadata(label, row)
        self._note_aliases(label, row.get("aliases"))
        budget = self._budgets.get(project.get("budget_id"), {})
        limited = [name for name in ("max_budget", "tpm_limit", "rpm_limit") if budget.get(name) is not None]
        if limited or model_allowances(project, label, ImportPlan(), self._now):
            self._plan.note("lost", label, f"the limits of its project {project.get('project_alias')}")
        if as_list(row.get("policies")):
            self._plan.note("lost", label, "its guardrail policies")
        if row.get("object_permission_id"):
            self._plan.note(
                "note",
                label,
                "its permissions on MCP servers, vector stores and agents, which are not served",
            )
        if row.get("auto_rotate"):
            self._plan.note("note", label, "it is not rotated by itself; see `llm-proxy keys rotate`")
        if any(as_object(json_column(row.get(name))) for name in ("config", "router_settings")):
            self._plan.note("note", label, "its own router settings; those of the configuration file hold")

    def _note_metadata(self, label: str, row: Json) -> None:
        metadata = as_object(json_column(row.get("metadata")))
        for name, meaning in _PROTECTING_METADATA.items():
            if metadata.get(name):
                self._plan.note("lost", label, meaning)
        if metadata.get("logging") or metadata.get("callback_settings"):
            self._plan.note(
                "note", label, "its own logging callbacks; those of the configuration file are for all"
            )

    def _note_aliases(self, label: str, aliases: object) -> None:
        for alias, model in as_object(json_column(aliases)).items():
            if self._plan.aliases.setdefault(str(alias), str(model)) != str(model):
                self._plan.note(
                    "lost", label, f"its alias {alias} for {model}: it has another meaning for others"
                )

    def _settle_aliases(self) -> None:
        """Keeps an alias for all callers; the name of a model that is served is no alias."""
        served = {row.get("model_name") for row in self._rows.of("LiteLLM_ProxyModelTable")}
        for alias in [alias for alias in self._plan.aliases if alias in served]:
            model = self._plan.aliases.pop(alias)
            self._plan.note(
                "lost", f"alias {alias}", f"it stood for {model} with some keys; it is a model's own name"
            )
        for alias, model in self._plan.aliases.items():
            self._plan.note("changed", f"alias {alias}", f"it stands for {model} with every key")

    def _note_unsupported(self) -> None:
        for organisation in self._organisations.values():
            self._note_shared("organisation", organisation.get("organization_alias"), organisation)
        for tag in self._rows.of("LiteLLM_TagTable"):
            self._note_shared("tag", tag.get("tag_name"), tag)
        for group in self._rows.of("LiteLLM_ModelAccessGroupBudgetTable"):
            self._note_shared("access group", group.get("access_group"), group)
        for row in self._rows.of("LiteLLM_OrganizationMembership"):
            self._note_shared(f"member {row['user_id']} of organisation", row["organization_id"], row)
        self._note_left_out()
        for table, count in self._rows.counts.items():
            self._plan.note("note", UNREAD[table], f"{count} rows stay in LiteLLM's database")

    def _note_left_out(self) -> None:
        limited = {one.source_id for one in self._plan.policies}
        unlimited = [
            f"end user {row['user_id']}"
            for row in self._rows.of("LiteLLM_EndUserTable")
            if f"end user {row['user_id']}" not in limited
        ]
        logins = [row for row in self._rows.of(KEYS) if row.get("team_id") == _DASHBOARD_TEAM]
        for count, what, message in (
            (len(unlimited), "end users", "have no limit, and need no entry here"),
            (len(logins), "keys of dashboard logins", "are not imported: they call no model"),
            (len(self._users), "users", "log in nowhere here: keys, limits and admin keys take their place"),
        ):
            if count:
                self._plan.note("note", what, f"{count} {message}")

    def _note_shared(self, kind: str, name: Any, row: Json) -> None:  # noqa: ANN401 -- a column's value
        budget = self._budgets.get(row.get("budget_id"), {})
        names = ("max_budget", "tpm_limit", "rpm_limit", "tpd_limit", "max_parallel_requests")
        limits = [f"{limit} {budget[limit]}" for limit in names if budget.get(limit) is not None]
        if limits:
            self._plan.note(
                "lost", f"{kind} {name}", f"its {', '.join(limits)}: set limits on its tenants instead"
            )


def _key_name(row: Json) -> str:
    alias = clean_name(row.get("key_alias") or "")
    is_name = bool(alias) and not alias.startswith(("key_", "sk-"))
    return alias if is_name else f"litellm {str(row['token'])[:8]}"
