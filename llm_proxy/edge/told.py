"""What the ledger knows, as a door tells it: 503 where there is no database, or none that can tell now."""

from collections.abc import Awaitable
from typing import TypeVar

from llm_proxy.database import TOO_SLOW, DatabaseUnavailable, RowsRejected
from llm_proxy.errors import BadRequest, StoreUnavailable

Told = TypeVar("Told")
Known = TypeVar("Known")


def asked(usage: Known | None) -> Known:
    """Whom to ask; raises `StoreUnavailable` where nobody is."""
    if usage is None:
        raise StoreUnavailable("This gateway has no database: nothing of the kind is known.")
    return usage


async def told(answer: Awaitable[Told]) -> Told:
    """The answer; raises `StoreUnavailable` while Postgres cannot give it, `BadRequest` for a wrong value."""
    try:
        return await answer
    except RowsRejected:
        raise BadRequest("A value is out of its range.") from None
    except DatabaseUnavailable as fault:
        if fault.reason == TOO_SLOW:
            why = "The answer takes longer than a question may; ask for a shorter range or fewer groups."
            raise StoreUnavailable(why, code="question_too_large") from None
        raise StoreUnavailable("The database cannot tell now; please try again.", retry_after_s=2) from None
