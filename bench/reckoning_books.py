"""The books of a reckoning compared: callers', provider's, the gateways' records, the sidecars' log.

Invariants: pure; every call is looked at, by its mark; a finding names the rule that was broken. Where a
record says `usage_source=provider`, tokens are the provider's own and money is the price list's, to the
token and the nano-dollar; whatever else it says is an estimate, measured against the truth.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from bench.reckoning_calls import AWAY, Got
from bench.reckoning_models import FALLBACK, MODELS, NANO, cost_nano_usd
from bench.reckoning_plan import Planned

Json = dict[str, Any]
COUNTED = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
OPENING = {"anthropic": 3, "openai": 1, "gemini": 0, "ollama": 0}
"""Frames a provider sends before the first of its content."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule one call broke."""

    rule: str
    kind: str
    group: str
    mark: str
    detail: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """An inexact record beside the truth: prompt, completion, nano-dollars; None is unknown."""

    kind: str
    group: str
    source: str
    said: tuple[int | None, int | None, int | None]
    truth: tuple[int, int, int]


@dataclass(slots=True)
class Case:
    """All there is of one call: plan, caller, provider's calls for its prompt, records, sidecars' rows."""

    planned: Planned
    got: Got
    seen: list[Json]
    rows: list[Json]
    logged: list[Json]

    @property
    def told(self) -> Json | None:
        """The provider's call that stated its tokens."""
        return next((one for one in reversed(self.seen) if one["told"]), None)

    @property
    def served(self) -> str:
        """The group that answered, or would have."""
        told = self.told or (self.seen[-1] if self.seen else None)
        group, target = self.planned.group, FALLBACK.get(self.planned.group)
        fell_back = told is not None and target and told["model"] == _physical(target)
        return target if target and fell_back else group


@dataclass(slots=True)
class Books:
    """The comparison.

    Attributes:
        exact: Calls, by kind, whose record is the provider's word to the token and the nano-dollar.
        groups: The same, by group asked for.
    """

    findings: list[Finding] = field(default_factory=list[Finding])
    estimates: list[Estimate] = field(default_factory=list[Estimate])
    exact: Counter[str] = field(default_factory=Counter[str])
    groups: Counter[str] = field(default_factory=Counter[str])
    kinds: Counter[str] = field(default_factory=Counter[str])
    notes: Counter[str] = field(default_factory=Counter[str])

    def compare(self, case: Case) -> None:
        """Look at one call."""
        kind = case.planned.kind
        self.kinds[kind.name] += 1
        owed = bool(case.got.status == 200 or (case.seen and not case.planned.is_again))
        if len(case.rows) != 1:
            self._count_of_rows(case, owed=owed)
            return
        row = case.rows[0]
        if not owed and not kind.leaves and not case.planned.is_again:
            self._find(case, "a record of what was not admitted", row["outcome"])
        self._outcome(case, row)
        if row["usage_source"] == "provider":
            self._stated(case, row)
        else:
            self._inexact(case, row)
        if row["outcome"] == "ok":
            self._served(case, row)
            self._logged(case, row)
        elif row["outcome"] == "error" and case.seen and not kind.leaves:
            self._failed(case, row)

    def _find(self, case: Case, rule: str, detail: object) -> None:
        planned = case.planned
        self.findings.append(Finding(rule, planned.kind.name, planned.group, planned.mark, str(detail)))

    def _count_of_rows(self, case: Case, *, owed: bool) -> None:
        if len(case.rows) > 1:
            self._find(case, "recorded twice", len(case.rows))
        elif owed:
            self._find(case, "no record", f"status {case.got.status}, {len(case.seen)} provider calls")
        elif case.got.code == AWAY:
            self.notes[f"refused, {AWAY}: a budget was not known yet, and Postgres was away"] += 1
        elif case.planned.kind.leaves:
            self.notes["left before it was admitted"] += 1
        elif case.planned.kind.expects and not (case.planned.kind.greedy or case.planned.kind.poor):
            self._find(case, "not admitted", f"status {case.got.status} {case.got.broke}")
        else:
            self.notes[f"refused, {case.got.status}: no record"] += 1

    def _outcome(self, case: Case, row: Json) -> None:
        kind, got = case.planned.kind, case.got
        # A stream that broke before its first frame left is an error with a status of its own.
        expects = "error" if kind.expects == "cut" and got.status != 200 else kind.expects
        if row["outcome"] != expects:
            self._find(case, "outcome", f"{row['outcome']}, not {expects}; {row['refusal_code']}")
        if got.status and got.status != row["status"]:
            self._find(case, "status", f"{row['status']}, the caller saw {got.status}")
        if got.request_id and got.request_id != str(row["request_id"]):
            self._find(case, "request id", f"{row['request_id']}, the caller saw {got.request_id}")
        if row["outcome"] == "ok" and not got.whole:
            self._find(case, "outcome", f"ok, but its caller got no whole answer: {got.broke}")
        if row["streamed"] != kind.stream:
            self._find(case, "streamed", row["streamed"])

    def _stated(self, case: Case, row: Json) -> None:
        told = case.told
        if told is None:
            self._find(
                case, "the provider said nothing", f"{row['prompt_tokens']}+{row['completion_tokens']}"
            )
            return
        usage = told["usage"]
        # What was not said is unknown: no family but OpenAI says that none were cached.
        wrong = [name for name in COUNTED if (row[name] or 0) != usage[name]]
        if wrong:
            said = {name: row[name] for name in wrong}
            self._find(case, "tokens", f"{said}, the provider said { {name: usage[name] for name in wrong} }")
        tier = usage["service_tier"]
        if tier in MODELS[case.served].tiers and row["service_tier"] != tier:
            self._find(case, "service tier", f"{row['service_tier']}, not {tier}")
        owed = 0 if row["cache"] == "hit" else cost_nano_usd(case.served, usage)
        cost = nano(row["cost_usd"])
        if cost != owed:
            self._find(case, "cost", f"{cost} nano-dollars, not {owed}")
        if not wrong and cost == owed:
            self.exact[case.planned.kind.name] += 1
            self.groups[case.planned.group] += 1

    def _inexact(self, case: Case, row: Json) -> None:
        if row["outcome"] == "ok" and case.told is not None:
            self._find(case, "an answer's usage was lost", row["usage_source"])
        truth = truth_of(case)
        said = (row["prompt_tokens"], row["completion_tokens"], nano(row["cost_usd"]))
        self.estimates.append(
            Estimate(case.planned.kind.name, case.planned.group, row["usage_source"], said, truth)
        )

    def _served(self, case: Case, row: Json) -> None:
        group, tries, hit = case.served, len(case.seen), False
        if (
            case.planned.kind.repeated
        ):  # both have one prompt: what the provider saw beyond one is the second's
            tries = tries - 1 if case.planned.is_again else 1
            hit = not tries
            self.notes["asked twice, and the cache did not have it"] += case.planned.is_again and not hit
        said = {"model_group": row["model_group"], "provider": row["provider"]}
        said |= {"deployment": row["deployment"], "model_resolved": row["model_resolved"]}
        said |= {"attempts": row["attempts"], "cache": row["cache"] == "hit"}
        truth: Json = {"model_group": group, "provider": MODELS[group].provider}
        truth |= {"deployment": f"the-{group}", "model_resolved": _physical(group)}
        truth |= {"attempts": tries, "cache": hit}
        for name, value in truth.items():
            if said[name] != value:
                self._find(case, name, f"{said[name]}, not {value}")

    def _failed(self, case: Case, row: Json) -> None:
        """Who failed, and how often it was tried, is right or not known."""
        truth = {"provider": MODELS[case.planned.group].provider, "attempts": len(case.seen)}
        for name, value in truth.items():
            if row[name] is None:
                self.notes[f"failed, {name} not known"] += 1
            elif row[name] != value:
                self._find(case, f"{name} of a failure", f"{row[name]}, not {value}")

    def _logged(self, case: Case, row: Json) -> None:
        """The sidecars' log agrees: one success, the same figures."""
        good = [one for one in case.logged if one["status"] == "success"]
        if case.planned.is_again:
            self.notes["logged cache hits"] += bool(good)
            return
        if len(good) != 1:
            self._find(case, "the sidecars' log", f"{len(good)} successes, {len(case.logged)} rows")
            return
        names = ("prompt_tokens", "completion_tokens")
        if row["usage_source"] == "provider" and any(good[0][name] != row[name] for name in names):
            self._find(case, "the sidecars' log: tokens", [good[0][name] for name in names])
        costs = nano(good[0]["cost_usd"]), nano(row["cost_usd"])
        if None not in costs and abs((costs[0] or 0) - (costs[1] or 0)) > 1:
            self._find(case, "the sidecars' log: cost", costs)


def _physical(group: str) -> str:
    return MODELS[group].physical.partition("/")[2]


def nano(dollars: Decimal | None) -> int | None:
    """A column's dollars in nano-dollars."""
    return None if dollars is None else int(dollars * NANO)


def truth_of(case: Case) -> tuple[int, int, int]:
    """What was used up: stated by the provider, or its prompt and the frames that left it."""
    seen = case.seen[-1] if case.seen else None
    if seen is None or seen["status"] != 200:
        return 0, 0, 0
    usage: Json = dict(seen["usage"])
    if not seen["told"]:
        sent = max(0, seen["frames"] - OPENING[seen["family"]]) if seen["stream"] else 0
        whole = not case.planned.kind.counted
        usage["completion_tokens"] = sum(case.planned.first_choice_tokens[: None if whole else sent])
    return usage["prompt_tokens"], usage["completion_tokens"], cost_nano_usd(case.served, usage) or 0


def cases(
    planned: Iterable[Planned],
    got: dict[str, Got],
    seen: Sequence[Json],
    rows: Sequence[Json],
    log: Sequence[Json],
) -> list[Case]:
    """Every call with all there is of it; `seen` calls carry their mark as `mark`."""
    by_mark, by_client, by_id = (defaultdict[str, list[Json]](list) for _ in range(3))
    for call in seen:
        by_mark[call["mark"]].append(call)
    for row in rows:
        by_client[row["client_request_id"]].append(row)
    for row in log:
        by_id[str(row["call_id"])].append(row)
    found: list[Case] = []
    for one in planned:
        own = by_client[one.mark]
        logged = [row for record in own for row in by_id[str(record["request_id"])]]
        found.append(Case(one, got[one.mark], by_mark[one.said], own, logged))
    return found
