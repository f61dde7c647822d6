"""An answer about usage, asked of Postgres.

Invariants: an answer is of one moment; its lines are sums of whole groups, or the part that nobody can tell
is named; costs stay `Decimal` until somebody prints them.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import asyncpg

from llm_proxy.identity.store import Connection
from llm_proxy.ledger.known import check_known, key_names, named, with_key_id
from llm_proxy.ledger.question import NAMES, NOTHING, Answer, Line, Question
from llm_proxy.ledger.sources import HOURS_KEPT, Kept, parts_of, statement_of, used_days, within_days
from llm_proxy.ledger.zones import Span, Unit, label, midnight

_STATEMENT_S = 9
_KEPT = """
    SELECT (SELECT min(day) FROM usage_daily), (SELECT max(day) FROM usage_daily),
           (SELECT min(right(c.relname, 8)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'requests'::regclass AND c.relname ~ '^requests_[0-9]{8}$')"""


@asynccontextmanager
async def snapshot(connection: Connection) -> AsyncGenerator[None]:
    """Reading of one moment; a statement that takes too long is ended by the server, too."""
    transaction = connection.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_S}s'")
        yield
    except asyncio.CancelledError:
        connection.terminate()  # a silent server would keep us waiting for its rollback
        raise
    except BaseException:
        await transaction.rollback()
        raise
    else:
        await transaction.commit()


async def answer(connection: Connection, question: Question, now: datetime) -> Answer:
    """The answer; raises `BadRequest`, and `NotFound` for a name that nobody knows."""
    question = await with_key_id(connection, question)
    kept = await _kept(connection, now)
    lines, untold = await _lines(connection, question, kept)
    total, total_untold = lines, untold
    if question.by:
        total, total_untold = await _lines(connection, replace(question, by=(), top=None), kept)
    if not total:
        await check_known(connection, question.where, question.owner, question.within)
    return Answer(
        lines=await _with_key_names(connection, lines) if "key" in question.by else lines,
        total=total[0] if total else NOTHING,
        untold=untold,
        total_untold=total_untold,
        has_more=len(lines) >= question.most,
    )


async def _kept(connection: Connection, now: datetime) -> Kept:
    found = await connection.fetchrow(_KEPT)
    first, last, oldest = found if found is not None else (None, None, None)
    rows_since = datetime.strptime(oldest, "%Y%m%d").replace(tzinfo=UTC) if oldest else now
    return Kept((first, last) if first and last else None, midnight(now.date(), UTC) - HOURS_KEPT, rows_since)


async def _lines(connection: Connection, question: Question, kept: Kept) -> tuple[list[Line], list[Span]]:
    parts = parts_of(question, kept)
    if parts is None:
        return [], []
    statement = statement_of(question, parts)
    rows = await connection.fetch(statement.text, *statement.arguments) if statement is not None else []
    untold: list[Span] = []
    if parts.untold:
        used = used_days(question, parts.untold)
        days = {row["day"] for row in await connection.fetch(used.text, *used.arguments)}
        untold = within_days(parts.untold, days)
    return [_line(row, question, parts.groups) for row in rows], untold


def _line(row: asyncpg.Record, question: Question, groups: Sequence[datetime]) -> Line:
    begin = groups[int(row["group"]) - 1]
    timed = int(row["timed"])
    return Line(
        group={
            name: (row[name] or None) if name in NAMES else label(cast("Unit", name), begin, question.zone)
            for name in question.by
        },
        requests=int(row["requests"]),
        succeeded=int(row["succeeded"]),
        cache_hits=int(row["cache_hits"]),
        prompt_tokens=int(row["prompt_tokens"]),
        completion_tokens=int(row["completion_tokens"]),
        cached_tokens=int(row["cached_tokens"]),
        reasoning_tokens=int(row["reasoning_tokens"]),
        cost_usd=row["cost_usd"],
        unpriced_requests=int(row["unpriced"]),
        estimated_requests=int(row["estimated"]),
        avg_latency_ms=round(float(row["latency_us"] / timed / 1000), 3) if timed else None,
    )


async def _with_key_names(connection: Connection, lines: Sequence[Line]) -> list[Line]:
    found = await key_names(connection, {line.group["key"] for line in lines})
    return [replace(line, group=named(line.group, found)) for line in lines]
