"""A person's name in Postgres's planner statistics, which keep samples of values after the rows are gone.

Invariants: only tables whose statistics hold the name are analysed; what cannot be made anew is told, and
holds up no erasure: Postgres replaces it when it analyses the table next.
"""

from typing import Any

from llm_proxy.ledger.certificate import Finding

PLANNER_STATISTICS = "planner statistics"
_NAMING = """
    SELECT DISTINCT format('%I.%I', s.schemaname, s.tablename) AS place
    FROM pg_stats AS s
    WHERE s.schemaname = current_schema() AND EXISTS (
        SELECT FROM unnest(s.most_common_vals::text::text[] || s.histogram_bounds::text::text[]) AS v (one)
        WHERE position($1 IN v.one) > 0)
    ORDER BY 1"""
_LEFT = "{} tables: rows that stay have the name too, or this role may not ANALYZE them"


async def refresh_statistics(connection: Any, name: str) -> Finding:  # noqa: ANN401 -- asyncpg's, of a pool or not
    """Analyse the tables whose statistics hold this name; a table that is being analysed is left alone."""
    found = [row["place"] for row in await connection.fetch(_NAMING, name)]
    for place in found:
        await connection.execute(f"ANALYZE (SKIP_LOCKED) {place}")
    left = len(await connection.fetch(_NAMING, name)) if found else 0
    if left:
        return Finding(PLANNER_STATISTICS, "kept", max(0, len(found) - left), _LEFT.format(left))
    return Finding(PLANNER_STATISTICS, "erased" if found else "nothing", len(found))
