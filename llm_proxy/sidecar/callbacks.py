"""The callback this room adds to LiteLLM: it sees each call's error before it is worded anew, and its cost.

Invariant: LiteLLM calls these with keywords, so the names of their parameters are fixed.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from llm_proxy.sidecar import attempts, outcome, seams
from llm_proxy.sidecar.call_log import CallLog
from llm_proxy.sidecar.call_row import row
from llm_proxy.sidecar.prices import is_known
from llm_proxy.sidecar.seams import Theirs


@asynccontextmanager
async def installed() -> AsyncGenerator[Theirs]:
    """Add the callback and return it; at the end write out what it holds."""
    url = os.environ.get("LLM_CALLS_DATABASE_URL")
    log = CallLog(url) if url else None
    added = observer(log)
    seams.library().callbacks.append(added)
    if log is None:
        yield added
        return
    attempts.log_to(log.post)
    await log.start()
    try:
        yield added
    finally:
        await log.stop()


def observer(log: CallLog | None) -> Theirs:
    """A callback for `litellm.callbacks`."""
    parent = seams.custom_logger()

    class Observer(parent):  # type: ignore[misc,valid-type]  # LiteLLM accepts no other kind of object
        async def async_post_call_failure_hook(self, original_exception: BaseException, **_: object) -> None:
            outcome.note(original_exception)

        async def async_log_success_event(
            self, kwargs: dict[str, Any], response_obj: object, start_time: datetime, end_time: datetime
        ) -> None:
            _log(log, row(kwargs, response_obj, start_time, end_time, is_known))

        async def async_log_failure_event(
            self, kwargs: dict[str, Any], response_obj: object, start_time: datetime, end_time: datetime
        ) -> None:
            if not attempts.is_calling():
                _log(log, row(kwargs, response_obj, start_time, end_time, is_known))

    return Observer()


def _log(log: CallLog | None, found: tuple[Any, ...] | None) -> None:
    if log is not None and found is not None:
        log.post(found)
