"""What was used, told from memory: the mock's calls, which are nobody's to pay and are kept nowhere else.

Invariants: the answers are those `queries.Usage` would give of the same records; nothing waits; only the
last `MOST` calls count.
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, tzinfo
from decimal import Decimal
from itertools import groupby, islice, product
from typing import Any, cast
from uuid import UUID

from llm_proxy.ledger.known import named, unknown
from llm_proxy.ledger.question import NAMES, Answer, Line, Question
from llm_proxy.ledger.record import UsageRecord
from llm_proxy.ledger.refusals_kept import Whose
from llm_proxy.ledger.row import COLUMNS
from llm_proxy.ledger.zones import Unit, label

MOST = 10_000
_FIELDS = {"key": "key_id", "model": "group"}


class Remembered:
    """Keeps the last calls of this process, and answers about them."""

    def __init__(self) -> None:
        self._records: deque[UsageRecord] = deque(maxlen=MOST)

    def keep(self, record: UsageRecord) -> None:
        """A call ended."""
        self._records.append(record)

    async def ask(self, question: Question, now: datetime) -> Answer:  # noqa: ARG002 -- as Postgres is asked
        """The answer; raises `BadRequest`, and `NotFound` for a name that nobody knows."""
        question = self._with_key_id(question)
        span = question.spans()
        where = [(name, value) for name, value in question.where.items() if name in NAMES]
        found = [
            record
            for record in self._records
            if span is not None
            and span[0] <= record.started_at < span[1]
            and all(value in (_named(record, name) or ("",)) for name, value in where)
        ]
        if not found:
            self._check_known(where)
        groups: dict[tuple[Any, ...], list[UsageRecord]] = {}
        for record in found:
            for group in product(*(_groups_of(record, name, question.zone) for name in question.by)):
                groups.setdefault(group, []).append(record)
        lines = [
            _line(named(dict(zip(question.by, group, strict=True)), {}), of) for group, of in groups.items()
        ]
        lines.sort(key=lambda line: _place(line, question))
        shown = _at_most(lines, question)
        return Answer(shown, _line({}, found), has_more=len(shown) >= question.most)

    def _with_key_id(self, question: Question) -> Question:
        given, owner = question.where.get("key"), question.owner
        if given is None and owner is None:
            return question
        keys = (one.key_id for one in self._records if given in {one.key_id, one.key_prefix})
        found = owner if given is None else next(keys, None)
        if found is None or (owner is not None and found != owner):
            raise unknown("key", given or "")
        return replace(question, where={**question.where, "key": found})

    def _check_known(self, where: Iterable[tuple[str, str]]) -> None:
        for name, value in where:
            if value and not any(value in _named(record, name) for record in self._records):
                raise unknown(name, value)

    async def story(self, request_id: UUID) -> dict[str, Any] | None:
        """One request, as its row would be; None if unknown."""
        record = next((one for one in self._records if one.request_id == request_id), None)
        if record is None:
            return None
        row: dict[str, Any] = {COLUMNS.get(name, name): value for name, value in record._asdict().items()}
        nano_usd = record.cost_nano_usd
        cost_usd = None if nano_usd is None else Decimal(nano_usd).scaleb(-9)
        read = {name: json.loads(row[name]) if row[name] else None for name in ("hops", "token_details")}
        tags = record.tags.split(",") if record.tags else None
        return {**row, **read, "cost_usd": cost_usd, "tags": tags, "model_calls": []}

    async def refused_beside(self, request_id: UUID, whose: Whose) -> list[dict[str, Any]]:  # noqa: ARG002 -- as Postgres is asked
        """A mock counts no refusals."""
        return []


def _named(record: UsageRecord, name: str) -> tuple[str, ...]:
    """What a record says of a dimension that is a name; tags may be several."""
    if name == "tag":
        return tuple(record.tags.split(",")) if record.tags else ()
    value: str | None = getattr(record, _FIELDS.get(name, name))
    return (value,) if value else ()


def _groups_of(record: UsageRecord, dimension: str, zone: tzinfo) -> tuple[Any, ...]:
    if dimension in NAMES:
        return _named(record, dimension) or (None,)
    return (label(cast("Unit", dimension), record.started_at, zone),)


def _at_most(lines: list[Line], question: Question) -> list[Line]:
    if question.top is None:
        return lines[: question.most]
    kept: list[Line] = []
    for _, of_a_time in groupby(lines, lambda line: [line.group[unit] for unit in question.units]):
        kept.extend(islice(of_a_time, question.top))
    return kept[: question.most]


def _line(group: dict[str, Any], records: list[UsageRecord]) -> Line:
    timed = [one.latency_ms for one in records if one.outcome != "lost"]
    return Line(
        group=group,
        requests=len(records),
        succeeded=sum(one.outcome == "ok" for one in records),
        cache_hits=sum(one.cache == "hit" for one in records),
        prompt_tokens=_sum(one.prompt_tokens for one in records),
        completion_tokens=_sum(one.completion_tokens for one in records),
        cached_tokens=_sum(one.cached_tokens for one in records),
        reasoning_tokens=_sum(one.reasoning_tokens for one in records),
        cost_usd=Decimal(_sum(one.cost_nano_usd for one in records)).scaleb(-9),
        unpriced_requests=sum(
            one.cost_nano_usd is None
            and (one.outcome == "ok" or bool(one.prompt_tokens or one.completion_tokens))
            for one in records
        ),
        estimated_requests=sum(one.usage_source == "estimated" for one in records),
        avg_latency_ms=round(sum(timed) / len(timed), 3) if timed else None,
    )


def _sum(values: Iterable[int | None]) -> int:
    return sum(value or 0 for value in values)


def _place(line: Line, question: Question) -> tuple[Any, ...]:
    times = [line.group[unit] for unit in question.units]
    names = [line.group[name] or "" for name in question.by if name in NAMES]
    return (*times, -line.cost_usd, -line.requests, *names)
