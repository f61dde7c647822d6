"""What a budget's owner spent, for counters that were lost.

Invariant: a sum that may miss rows is no sum: while records wait anywhere but in Postgres, nobody knows.
"""

import asyncio
from datetime import datetime

from llm_proxy.ledger.ledger import Ledger
from llm_proxy.ledger.postgres import PostgresAway
from llm_proxy.ledger.queries import Usage

_ONE_BATCH_S = 0.15


class Spent:
    """Answers admission's question from the roll-up."""

    def __init__(self, usage: Usage, ledger: Ledger) -> None:
        self._usage = usage
        self._ledger = ledger

    async def spent_nano_usd(self, scope: str, id: str, period_start: datetime) -> int | None:  # noqa: A002 -- admission's word
        """Nano-dollars a key, agent or tenant spent since that day began; None when nobody knows."""
        if self._ledger.state().queued:
            await asyncio.sleep(_ONE_BATCH_S)
        state = self._ledger.state()
        if state.postgres != "up" or state.spool_records:
            return None
        try:
            return await self._usage.spent_nano_usd(scope, id, period_start)
        except PostgresAway:
            return None
