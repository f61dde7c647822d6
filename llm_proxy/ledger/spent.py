"""What a budget's owner spent, for counters that were lost.

Invariant: a sum that may miss rows is no sum: while records wait anywhere but in Postgres, nobody knows.
"""

import asyncio
from datetime import datetime

from llm_proxy.database import DatabaseUnavailable
from llm_proxy.ledger.ledger import Ledger
from llm_proxy.ledger.queries import Usage

_ONE_BATCH_S = 0.15


class Spent:
    """Answers admission's question from the roll-up."""

    def __init__(self, usage: Usage, ledger: Ledger) -> None:
        self._usage = usage
        self._ledger = ledger

    async def spent_nano_usd(
        self,
        scope: str,
        spender: str,
        period_start: datetime,
        tenant: str | None = None,
    ) -> int | None:
        """Nano-dollars spent since that day began, in one tenant or in all; None when nobody knows."""
        if self._ledger.state().queued:
            await asyncio.sleep(_ONE_BATCH_S)
        state = self._ledger.state()
        if state.postgres != "up" or state.spool_records:
            return None
        try:
            return await self._usage.spent_nano_usd(scope, spender, period_start, tenant)
        except DatabaseUnavailable:
            return None
