"""What was used, told from memory: the mock's calls, which are nobody's to pay and are kept nowhere else.

Invariants: the answers are those `queries.Usage` would give of the same records; nothing waits; only the
last `MOST` calls count.
"""

import json
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from llm_proxy.ledger.queries import Line
from llm_proxy.ledger.question import MOST_LINES, Question, filter_value
from llm_proxy.ledger.record import UsageRecord
from llm_proxy.ledger.row import COLUMNS

MOST = 10_000
_FIELDS = {"key": "key_id", "model": "group"}


class Remembered:
    """Keeps the last calls of this process, and answers about them."""

    def __init__(self) -> None:
        self._records: deque[UsageRecord] = deque(maxlen=MOST)

    def keep(self, record: UsageRecord) -> None:
        """A call ended."""
        self._records.append(record)

    async def ask(self, question: Question, now: datetime) -> list[Line]:  # noqa: ARG002 -- as Postgres is asked
        """The lines of an answer, the costliest first, or by time; raises `BadRequest`."""
        where = {name: filter_value(name, text) for name, text in question.where.items()}
        groups: dict[tuple[Any, ...], list[UsageRecord]] = {} if question.by else {(): []}
        for record in self._records:
            if "user" in question.by and not record.user:
                continue  # the roll-up by users holds none without
            if question.since <= record.started_at < question.until and all(
                (_of(record, name) or "") == value for name, value in where.items()
            ):
                groups.setdefault(tuple(_of(record, name) for name in question.by), []).append(record)
        lines = [_line(dict(zip(question.by, group, strict=True)), of) for group, of in groups.items()]
        lines.sort(key=lambda line: _place(line, question.by))
        return lines[:MOST_LINES]

    async def total(self, question: Question, now: datetime) -> Line:
        """The sum of everything the question selects; zeros when that is nothing."""
        return (await self.ask(Question(question.since, question.until, (), question.where), now))[0]

    async def story(self, request_id: UUID) -> dict[str, Any] | None:
        """One request, as its row would be; None if unknown."""
        record = next((one for one in self._records if one.request_id == request_id), None)
        if record is None:
            return None
        row: dict[str, Any] = {COLUMNS.get(name, name): value for name, value in record._asdict().items()}
        nano_usd = record.cost_nano_usd
        cost_usd = None if nano_usd is None else Decimal(nano_usd).scaleb(-9)
        hops = json.loads(record.hops) if record.hops else None
        tags = record.tags.split(",") if record.tags else None
        return {**row, "cost_usd": cost_usd, "hops": hops, "tags": tags, "model_calls": []}


def _of(record: UsageRecord, dimension: str) -> Any:  # noqa: ANN401 -- text, a day or an hour
    if dimension == "day":
        return record.started_at.date()
    if dimension == "hour":
        return record.started_at.replace(minute=0, second=0, microsecond=0)
    return getattr(record, _FIELDS.get(dimension, dimension)) or None


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
        unpriced_requests=sum(one.cost_nano_usd is None for one in records),
        estimated_requests=sum(one.usage_source == "estimated" for one in records),
        avg_latency_ms=round(sum(timed) / len(timed), 3) if timed else None,
    )


def _sum(values: Iterable[int | None]) -> int:
    return sum(value or 0 for value in values)


def _place(line: Line, by: tuple[str, ...]) -> tuple[Any, ...]:
    times = [line.group[name] for name in by if name in {"day", "hour"}]
    return (*times, -line.cost_usd, -line.requests)
