"""The callback by which LiteLLM reports calls, and asks which deployments a call may use.

Invariant: a failure within an attempt of the router's is no row of it: the patch `attempts` writes that one.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from llm_proxy.json_access import Json
from llm_proxy.sidecar import call_outcome, litellm_internals
from llm_proxy.sidecar.call_log import CallLog, CallRow, row_of_event
from llm_proxy.sidecar.litellm_internals import Untyped

_IN_ATTEMPT: ContextVar[bool] = ContextVar("calling", default=False)
_call_logs: list[CallLog] = []
"""The call log, if there is one."""


@contextmanager
def attempt_in_context() -> Generator[None]:
    """Mark what runs within as an attempt of the router's, whose failure is a row already."""
    token = _IN_ATTEMPT.set(True)
    try:
        yield
    finally:
        _IN_ATTEMPT.reset(token)


def install_callback(call_log: CallLog | None) -> None:
    """Add the callback that records calls, and keeps one to its account, to `litellm.callbacks`.

    LiteLLM passes its callbacks keyword arguments, so the names of their parameters are fixed.
    """
    _call_logs[:] = [call_log] if call_log is not None else []
    parent = litellm_internals.custom_logger_class()

    class Callback(parent):  # type: ignore[misc,valid-type]  # LiteLLM accepts no other kind of object
        async def async_post_call_failure_hook(self, original_exception: BaseException, **_: object) -> None:
            call_outcome.record_error(original_exception)

        async def async_filter_deployments(
            self, *, healthy_deployments: list[Untyped], **_: object
        ) -> list[Untyped]:
            outcome = call_outcome.running()
            allowed = outcome.account if outcome is not None else None
            if allowed is None:
                return healthy_deployments
            return [one for one in healthy_deployments if str(one["model_info"]["id"]) in allowed]

        async def async_log_success_event(
            self, kwargs: dict[str, Any], response_obj: object, start_time: datetime, end_time: datetime
        ) -> None:
            post(row_of_event(kwargs, response_obj, start_time, end_time))

        async def async_log_failure_event(
            self, kwargs: dict[str, Any], response_obj: object, start_time: datetime, end_time: datetime
        ) -> None:
            if not _IN_ATTEMPT.get():  # else `make_call` writes the row
                post(row_of_event(kwargs, response_obj, start_time, end_time))

    litellm_internals.litellm_module().callbacks.append(Callback())


def post_event(kwargs: Json, answer: Untyped, started: datetime, ended: datetime) -> None:
    """Write the row of a success of which LiteLLM reports no event."""
    if _call_logs:
        post(row_of_event(kwargs, answer, started, ended))


def post(row: CallRow | None) -> None:
    """Write a row, if there is a call log."""
    for call_log in _call_logs:
        if row is not None:
            call_log.post(row)
