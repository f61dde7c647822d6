"""The rules of a billing audit: callers', provider's, gateways' and sidecars' books compared call by call.

Invariants: pure; every call is looked at, by its mark; a finding names the rule that was broken. No figure of
the gateway's is taken for a truth. Where a record says `usage_source=provider`, tokens are the provider's own
and the cost is the price list's, to the nano-dollar; the rest are estimates, measured against the truth.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from billing.plan import FALLBACK, MODELS, NANO, Json, PlannedCall, cost_nano_usd, units_of

STORE_DOWN = "store_unavailable"
TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
OPENING_FRAMES = {"anthropic": 3, "openai": 1, "gemini": 0, "ollama": 0, "responses": 4}
"""Frames a provider sends before the first of its content."""


@dataclass(slots=True)
class CallerView:
    """One call as its caller saw it.

    Attributes:
        status: 0 when there was none.
        request_id: As the gateway named it.
        complete: The answer came to its proper end.
        code: Of an error.
    """

    status: int = 0
    request_id: str = ""
    complete: bool = False
    fault: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that was broken."""

    rule: str
    kind: str
    subject: str
    mark: str
    detail: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """An inexact record beside the truth: prompt tokens, completion tokens, nano-dollars; None is unknown."""

    kind: str
    source: str
    recorded: tuple[int | None, int | None, int | None]
    truth: tuple[int, int, int]


@dataclass(slots=True)
class Case:
    """All there is of one call: plan, caller, provider's calls for its prompt, records, sidecars' rows."""

    planned: PlannedCall
    caller: CallerView
    provider: list[Json]
    records: list[Json]
    logged: list[Json]

    @property
    def stating(self) -> Json | None:
        """The provider's call that stated its tokens."""
        return next((call for call in reversed(self.provider) if call["told"]), None)

    @property
    def served(self) -> str:
        """The group that answered, or would have."""
        last = self.stating or (self.provider[-1] if self.provider else None)
        group = self.planned.group
        target = FALLBACK.get(group)
        return target if last and target and last["model"] == MODELS[target].name else group

    @property
    def admitted(self) -> bool:
        """A record is owed."""
        return self.caller.status == 200 or bool(self.provider and not self.planned.is_again)

    @property
    def units(self) -> int:
        """What the provider bills beside tokens."""
        return units_of(self.served, self.stating["body"]) if self.stating else 0

    def owed_nano_usd(self) -> int:
        """What the provider bills for tokens it stated; 0 where it was not called."""
        hit = self.planned.is_again and any(row["cache"] == "hit" for row in self.records)
        if self.stating is None or hit or not self.records:
            return 0
        return cost_nano_usd(self.served, self.stating["usage"], self.units) or 0

    def truth(self) -> tuple[int, int, int]:
        """What was used: stated by the provider, or its prompt and the frames that left it."""
        last = self.provider[-1] if self.provider else None
        if last is None or last["status"] != 200:
            return 0, 0, 0
        usage: Json = dict(last["usage"])
        if not last["told"]:
            sent = max(0, last["frames"] - OPENING_FRAMES[last["family"]]) if last["stream"] else 0
            end = None if not self.planned.kind.counted else sent
            usage["completion_tokens"] = sum(self.planned.frame_tokens[:end])
        return usage["prompt_tokens"], usage["completion_tokens"], cost_nano_usd(self.served, usage) or 0


def cases(
    planned: Iterable[PlannedCall],
    callers: dict[str, CallerView],
    provider: Sequence[Json],
    records: Sequence[Json],
    log: Sequence[Json],
) -> list[Case]:
    """Every call with all there is of it; the provider's calls carry their mark as `mark`."""
    by_mark, by_client, by_id = (defaultdict[str, list[Json]](list) for _ in range(3))
    for call in provider:
        by_mark[call["mark"]].append(call)
    for row in records:
        by_client[row["client_request_id"]].append(row)
    for row in log:
        by_id[str(row["call_id"])].append(row)
    found: list[Case] = []
    for one in planned:
        own = by_client[one.mark]
        logged = [row for record in own for row in by_id[str(record["request_id"])]]
        found.append(Case(one, callers[one.mark], by_mark[one.prompt_mark], own, logged))
    return found


def nano(dollars: Decimal | None) -> int | None:
    """A column's dollars in nano-dollars."""
    return None if dollars is None else int(dollars * NANO)


@dataclass(slots=True)
class Comparison:
    """What the rules found.

    Attributes:
        exact: Calls, by kind, group and API, whose record is the provider's word.
    """

    findings: list[Finding] = field(default_factory=list[Finding])
    estimates: list[Estimate] = field(default_factory=list[Estimate])
    kinds: Counter[str] = field(default_factory=Counter[str])
    exact: Counter[str] = field(default_factory=Counter[str])
    notes: Counter[str] = field(default_factory=Counter[str])

    def check(self, case: Case) -> None:
        """Applies every rule to one call."""
        kind = case.planned.kind
        self.kinds[kind.name] += 1
        if len(case.records) != 1:
            self._without_one_record(case)
            return
        row = case.records[0]
        if not case.admitted and not kind.leaves and not case.planned.is_again:
            self._find(case, "a record of what was not admitted", row["outcome"])
        self._outcome(case, row)
        if row["usage_source"] == "provider":
            self._exact(case, row)
        else:
            if row["outcome"] == "ok" and case.stating is not None:
                self._find(case, "an answer's usage was lost", row["usage_source"])
            recorded = (row["prompt_tokens"], row["completion_tokens"], nano(row["cost_usd"]))
            self.estimates.append(Estimate(kind.name, row["usage_source"], recorded, case.truth()))
        if row["outcome"] == "ok":
            self._routing(case, row)
            self._call_log(case, row)
        elif row["outcome"] == "error" and case.provider and not kind.leaves:
            truth = {"provider": MODELS[case.planned.group].provider, "attempts": len(case.provider)}
            for name, value in truth.items():  # who failed, and how often: right, or not known
                if row[name] is None:
                    self.notes[f"failed, {name} not known"] += 1
                elif row[name] != value:
                    self._find(case, f"{name} of a failure", f"{row[name]}, not {value}")

    def _find(self, case: Case, rule: str, detail: object) -> None:
        one = case.planned
        self.findings.append(Finding(rule, one.kind.name, one.group, one.mark, str(detail)))

    def _without_one_record(self, case: Case) -> None:
        kind, caller = case.planned.kind, case.caller
        if case.records:
            self._find(case, "recorded twice", len(case.records))
        elif case.admitted:
            self._find(case, "no record", f"status {caller.status}, {len(case.provider)} provider calls")
        elif caller.code == STORE_DOWN:
            self.notes[f"{STORE_DOWN}: a budget was not known yet, and Postgres was down"] += 1
        elif kind.leaves:
            self.notes["left before it was admitted"] += 1
        elif kind.outcome and not (kind.greedy or kind.poor):
            self._find(case, "not admitted", f"status {caller.status} {caller.fault}")
        else:
            self.notes[f"rejected, {caller.status}: no record"] += 1

    def _outcome(self, case: Case, row: Json) -> None:
        kind, caller = case.planned.kind, case.caller
        # A stream that broke before its first frame left is an error with a status of its own.
        expected = "error" if kind.outcome == "cut" and caller.status != 200 else kind.outcome
        if row["outcome"] != expected:
            self._find(case, "outcome", f"{row['outcome']}, not {expected}; {row['refusal_code']}")
        if caller.status and caller.status != row["status"]:
            self._find(case, "status", f"{row['status']}, the caller saw {caller.status}")
        if caller.request_id and caller.request_id != str(row["request_id"]):
            self._find(case, "request id", f"{row['request_id']}, the caller saw {caller.request_id}")
        if row["outcome"] == "ok" and not caller.complete:
            self._find(case, "outcome", f"ok, but the caller's answer was not complete: {caller.fault}")
        if row["streamed"] != kind.stream:
            self._find(case, "streamed", row["streamed"])

    def _exact(self, case: Case, row: Json) -> None:
        if case.stating is None:
            tokens = f"{row['prompt_tokens']}+{row['completion_tokens']}"
            self._find(case, "the provider stated nothing", tokens)
            return
        usage = case.stating["usage"]
        # What was not stated is unknown: no family but OpenAI states that none were cached.
        unit = MODELS[case.served].unit
        wrong = {name: (row[name], usage[name]) for name in TOKENS if (row[name] or 0) != usage[name]}
        if unit:
            wrong = {unit: (row[unit], case.units)} if row[unit] != case.units else {}
        if wrong:
            self._find(case, "tokens", f"recorded and stated: {wrong}")
        tier = usage["service_tier"]
        if tier in MODELS[case.served].tiers and row["service_tier"] != tier:
            self._find(case, "service tier", f"{row['service_tier']}, not {tier}")
        owed = 0 if row["cache"] == "hit" else cost_nano_usd(case.served, usage, case.units)
        if nano(row["cost_usd"]) != owed:
            self._find(case, "cost", f"{nano(row['cost_usd'])} nano-dollars, not {owed}")
        elif not wrong:
            self.exact[case.planned.kind.name] += 1
            self.exact[f"group {case.planned.group}"] += 1
            self.exact[f"api {case.planned.api}"] += 1

    def _routing(self, case: Case, row: Json) -> None:
        group, attempts, hit = case.served, len(case.provider), False
        if case.planned.kind.repeated:  # both have one prompt: what goes beyond one call is the second's
            attempts = attempts - 1 if case.planned.is_again else 1
            hit = not attempts
            self.notes["asked twice, and the cache did not have it"] += case.planned.is_again and not hit
        truth: Json = {"model_group": group, "provider": MODELS[group].provider, "attempts": attempts}
        truth |= {"deployment": f"the-{group}", "model_resolved": MODELS[group].name, "cache": hit}
        for name, value in truth.items():
            recorded = row["cache"] == "hit" if name == "cache" else row[name]
            if recorded != value:
                self._find(case, name, f"{recorded}, not {value}")

    def _call_log(self, case: Case, row: Json) -> None:
        """The sidecars' log agrees: one success, the same figures."""
        good = [one for one in case.logged if one["status"] == "success"]
        if case.planned.is_again:
            self.notes["logged cache hits"] += bool(good)
            return
        if len(good) != 1:
            self._find(case, "the sidecars' log", f"{len(good)} successes, {len(case.logged)} rows")
            return
        stated = row["usage_source"] == "provider" and not MODELS[case.served].unit
        if stated and any(good[0][name] != row[name] for name in TOKENS[:2]):
            self._find(case, "the sidecars' log: tokens", [good[0][name] for name in TOKENS[:2]])
        logged, recorded = nano(good[0]["cost_usd"]), nano(row["cost_usd"])
        if logged is not None and recorded is not None and abs(logged - recorded) > 1:
            self._find(case, "the sidecars' log: cost", (logged, recorded))

    def errors(self) -> list[Json]:
        """Of what is not exact: by kind and source, how many, and what was recorded beside the truth."""
        found: list[Json] = []
        for kind, source in sorted({(one.kind, one.source) for one in self.estimates}):
            these = [one for one in self.estimates if (one.kind, one.source) == (kind, source)]
            line: Json = {"kind": kind, "source": source, "calls": len(these)}
            for at, name in enumerate(("prompt", "completion", "nano_usd")):
                known = [one for one in these if one.recorded[at] is not None]
                line[name] = {
                    "recorded": sum(one.recorded[at] or 0 for one in known) if known else None,
                    "truth": sum(one.truth[at] for one in known or these),
                }
            found.append(line)
        return found
