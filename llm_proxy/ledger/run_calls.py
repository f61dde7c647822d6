"""Runs of agents in the records: their sums in a range, the last used first, and one's requests in order.

Invariants: a run is a name below a tenant and a root key, with the calls of its child keys, the sample of
those that were rejected, and replayed answers, which are in no sum; what may be seen is a key's (with those
below it) or a tenant's own, if the query says so; nothing is written. A page of runs is stable for one end of
the range. Raises: `DatabaseUnavailable`, `NotFound`, `BadRequest` (several runs have the name).
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg

from llm_proxy.errors import BadRequest, NotFound
from llm_proxy.identity.postgres_store import Connection
from llm_proxy.json_access import Json
from llm_proxy.ledger.request_filters import FIRST_ID, LAST_ID, Position
from llm_proxy.ledger.request_search import time_of
from llm_proxy.ledger.usage_names import key_names, resolve_key
from llm_proxy.ledger.usage_query import require_range
from llm_proxy.ledger.usage_store import rejected_as_dict, row_as_dict
from llm_proxy.schema.database import db_deadline

MAX_PAGE = 1000
_DEADLINE_S = 10.0
_MAX_NAMED = 5
_ROOT = "coalesce(key_ancestors[1], key_id)"
_REJECTED = """
    SELECT r.*, k.name AS key_name, nullif(k.ancestors, ARRAY[]::text[]) AS key_ancestors
    FROM refusals AS r LEFT JOIN api_keys AS k ON k.key_id = r.key_id
    WHERE r.run_name IS NOT NULL AND r.key_id IS NOT NULL"""
_ID = f"md5(concat_ws(chr(31), {_ROOT}, coalesce(tenant, ''), run_name))::uuid"
"""Orders runs whose last calls began at the same time; no name holds this character."""
_TURN = (
    "door IN ('chat.completions', 'completions', 'responses', 'messages', 'generate_content')"
    " AND (cache = 'hit' OR coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) > 0)"
)
"""As limits of turns count; `quantities` has the endpoints."""
_SUMS = f"""
    SELECT run_name AS run, {_ROOT} AS key_id, tenant,
           max(key_prefix) FILTER (WHERE key_ancestors IS NULL) AS key_prefix,
           array_remove(array_agg(DISTINCT agent), NULL) AS agents,
           array_remove(array_agg(DISTINCT model_group), NULL) AS models,
           min(started_at) AS first_at, max(started_at) AS last_at,
           count(*) FILTER (WHERE NOT rejected) AS calls, count(*) FILTER (WHERE {_TURN}) AS turns,
           count(*) FILTER (WHERE outcome <> 'ok') AS failed, count(*) FILTER (WHERE rejected) AS rejected,
           coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
           coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens,
           coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens,
           coalesce(sum(cost_usd), 0) AS cost_usd,
           count(*) FILTER (WHERE cost_usd IS NULL AND outcome = 'ok') AS unpriced_calls, {_ID} AS id
    FROM (
        SELECT run_name, key_id, key_ancestors, key_prefix, tenant, agent, model_group, started_at,
               door, cache, outcome, prompt_tokens, completion_tokens, cached_tokens, cost_usd,
               false AS rejected
        FROM requests WHERE run_name IS NOT NULL AND replay_of IS NULL
        UNION ALL
        SELECT run_name, key_id, key_ancestors, key_prefix, tenant, agent, model_group, refused_at,
               NULL, NULL, NULL, NULL, NULL, NULL, NULL, true
        FROM ({_REJECTED}) AS r
    ) AS of_runs
    WHERE started_at >= $1 AND started_at < $2{{conditions}}
    GROUP BY run_name, {_ROOT}, tenant
"""  # noqa: S608 -- constants of this module
_PAGE = " HAVING (max(started_at), {id}) < ($3, $4::uuid) ORDER BY last_at DESC, id DESC LIMIT $5"
_BELOW_KEY = "({0} = key_id OR {0} = ANY(key_ancestors))"


def _calls_of_run(table: str, at: str) -> str:
    """Returns the statement that reads a run's rows in a table whose time column is `at`."""
    return f"""
    SELECT * FROM {table}
    WHERE run_name = $1 AND {_ROOT} = $2 AND tenant IS NOT DISTINCT FROM $3 AND {at} >= $4 AND {at} < $5
      AND ({at}, request_id) > ($6, $7::uuid) AND ($9::text IS NULL OR {_BELOW_KEY.format("$9")})
    ORDER BY {at}, request_id LIMIT $8
    """  # noqa: S608 -- constants of this module


_CALLS = _calls_of_run("requests", "started_at")
_REJECTED_CALLS = _calls_of_run(f"({_REJECTED}) AS r", "refused_at")


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Selects runs, or the calls of one; an empty range raises `BadRequest`.

    Attributes:
        since: The beginning of the range.
        until: Its end, exclusive.
        filters: By `run` (its name), `key` (a key's name, id or prefix), `tenant`, `agent`.
        only_key: The one key (its id) whose calls, and whose child keys' calls, may be seen; None for any.
        only_tenant: The one tenant whose runs may be seen; None for any.
        after: The place after which the page begins; None for its beginning.
        limit: Rows of a page, at most `MAX_PAGE`.
    """

    since: datetime
    until: datetime
    filters: dict[str, str]
    only_key: str | None = None
    only_tenant: str | None = None
    after: Position | None = None
    limit: int = 50

    def __post_init__(self) -> None:
        require_range(self.since, self.until)


@dataclass(frozen=True, slots=True)
class RunPage:
    """A page of runs, or of the requests of one.

    Attributes:
        rows: Runs with their sums in the range, or calls and rejections as `request_detail` returns them.
        after: Where the next page begins; None at the end.
        run: The run whose requests they are, with its sums; None in a page of runs.
    """

    rows: list[Json]
    after: Position | None
    run: Json | None = None


class RunReader:
    """Reads the runs of a database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def runs(self, query: RunQuery) -> RunPage:
        """Returns a page of runs, those with the latest calls first."""
        async with db_deadline(_DEADLINE_S), self._pool.acquire() as connection:
            query = await _with_key_id(connection, query)
            after = query.after or Position(query.until, LAST_ID)
            rows = await _sums(
                connection, query, _PAGE.format(id=_ID), after.at, after.request_id, query.limit + 1
            )
        page = rows[: query.limit]
        more = len(rows) > query.limit
        places = [Position(one["last_at"], one.pop("id")) for one in page]
        return RunPage(page, places[-1] if more else None)

    async def calls(self, query: RunQuery) -> RunPage:
        """Returns a page of the requests of the run that `query.filters` names, in the order they began.

        Raises:
            BadRequest: Several keys or tenants have a run of this name; the message names some.
            NotFound: No request of the range is in such a run.
        """
        async with db_deadline(_DEADLINE_S), self._pool.acquire() as connection:
            query = await _with_key_id(connection, query)
            found = await _sums(connection, query, " ORDER BY last_at DESC LIMIT $3", _MAX_NAMED)
            run = _only_run(found)
            after = query.after or Position(query.since, FIRST_ID)
            arguments = (
                run["run"], run["key_id"], run["tenant"], query.since, query.until, after.at,
                after.request_id, query.limit + 1, query.only_key,
            )  # fmt: skip
            calls = await connection.fetch(_CALLS, *arguments)
            rejected = await connection.fetch(_REJECTED_CALLS, *arguments)
            names = await key_names(connection, {row["key_id"] for row in calls})
        rows: list[Json] = [row_as_dict(row) | {"key_name": names.get(row["key_id"])} for row in calls]
        rows += map(rejected_as_dict, rejected)
        rows.sort(key=lambda row: (time_of(row), row["request_id"]))
        page = rows[: query.limit]
        last = page[-1] if len(rows) > query.limit else None
        following = None if last is None else Position(time_of(last), last["request_id"])
        return RunPage(page, following, run)


async def _sums(connection: Connection, query: RunQuery, tail: str, *arguments: Any) -> list[Json]:  # noqa: ANN401 -- of columns' types
    """Returns runs with their sums; `tail` ends the statement, its arguments begin at `$3`."""
    values: list[Any] = [query.since, query.until, *arguments]
    conditions = ""
    columns = {"run": "run_name", "key": "key", "tenant": "tenant", "agent": "agent"}
    wanted: list[tuple[str, str | None]] = [(columns[name], value) for name, value in query.filters.items()]
    wanted += [("key", query.only_key), ("tenant", query.only_tenant)]
    for column, value in wanted:
        if value is not None:
            values.append(value)
            place = f"${len(values)}"
            condition = _BELOW_KEY.format(place) if column == "key" else f"{column} = {place}"
            conditions += f" AND {condition}"
    rows = await connection.fetch(_SUMS.format(conditions=conditions) + tail, *values)
    names = await key_names(connection, {row["key_id"] for row in rows})
    found: list[Json] = [dict(row) for row in rows]
    for one in found:
        one["key_name"] = names.get(one["key_id"])
    return found


def _only_run(found: list[Json]) -> Json:
    """Returns the run where there is one; raises `NotFound`, or `BadRequest` for several."""
    if not found:
        raise NotFound("No call of this range is in a run of this name.", param="run", code="run_not_found")
    if len(found) > 1:
        owners = ", ".join(
            f"key {one['key_name'] or one['key_id']} (tenant {one['tenant']})" for one in found
        )
        message = f"Several runs have this name; say which by `key` and `tenant`: {owners}."
        raise BadRequest(message, param="key", code="run_ambiguous")
    run = found[0]
    del run["id"]
    return run


async def _with_key_id(connection: Connection, query: RunQuery) -> RunQuery:
    """Returns the query with the id of the key that its filters name."""
    name = query.filters.get("key")
    if name is None:
        return query
    key_id = await resolve_key(connection, name, query.only_key, query.only_tenant)
    return replace(query, filters={**query.filters, "key": key_id})
