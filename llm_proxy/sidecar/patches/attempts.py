"""Records what LiteLLM does for a call: each attempt, whether it was sent, guardrails that reject, its cost.

LiteLLM does not name the deployment of a failure and forgets those before a fallback. Invariants: each
attempt asks the router for a deployment once and passes through `make_call`; an attempt that fails there is a
row of `llm_calls` written here; a success and a broken stream are rows written by the callback. LiteLLM calls
`pre_call` after the translation of a request and before it is sent.
"""

import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from llm_proxy.json_access import as_object
from llm_proxy.sidecar import call_outcome, litellm_internals
from llm_proxy.sidecar.call_log import WARM_UP_GROUP, CallLog, CallRow, row_of_event, row_of_failed_attempt
from llm_proxy.sidecar.catalog import PROVIDER_KEY, is_cost_known
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch
from llm_proxy.sidecar.patches.routing import rejects_credentials

PostRow = Callable[[CallRow], None]
GUARDRAIL_HOOKS = ("pre_call_hook", "during_call_hook", "post_call_success_hook")
"""What runs an owner's guardrails."""
GROUP_GUARDRAIL_HOOKS = ("async_pre_call_deployment_hook", "async_post_call_success_deployment_hook")
"""What runs those of one model group, within an attempt."""
GUARDRAIL_ERRORS = frozenset({"BlockedPiiEntityError", "GuardrailRaisedException", "HTTPException"})
"""What guardrails raise, and no provider's stream."""
_IN_ATTEMPT: ContextVar[bool] = ContextVar("calling", default=False)
_post_rows: list[PostRow] = []
"""Takes a row for each attempt that failed; empty while there is no call log."""


def set_call_log(post: PostRow) -> None:
    """Hand each failed attempt's row to the call log."""
    _post_rows[:] = [post]


def install() -> None:
    """Patch router, call log and guardrails' runner."""
    call_outcome.enable_attempt_recording()
    router = litellm_internals.router_class()
    _record_deployments(router)
    _record_failures(router)
    _record_sent(litellm_internals.logging_class())
    for name in GUARDRAIL_HOOKS:
        _record_guardrail_errors(
            litellm_internals.proxy_logging_class(), name, call_outcome.record_guardrail_error
        )
    _record_guardrail_errors_of_streams(litellm_internals.proxy_logging_class())
    for name in GROUP_GUARDRAIL_HOOKS:
        _record_guardrail_errors(
            litellm_internals.utils_module(), name, call_outcome.record_group_guardrail_error
        )


def in_attempt() -> bool:
    """Whether an attempt runs: then its failure is told of here, and nowhere else."""
    return _IN_ATTEMPT.get()


def _record_deployments(router: Untyped) -> None:
    choose = router.async_get_available_deployment

    async def choose_and_note(self: Untyped, *words: Untyped, **options: Untyped) -> Untyped:
        chosen = await choose(self, *words, **options)
        params = as_object(as_object(chosen).get("litellm_params"))
        info = as_object(as_object(chosen).get("model_info"))
        deployment, provider = str(info.get("id") or ""), str(info.get(PROVIDER_KEY) or "")
        group = str(as_object(chosen).get("model_name") or options.get("model") or "")
        model = str(params.get("model") or "")
        call_outcome.record_attempt(call_outcome.Attempt(group, deployment, model, provider=provider))
        return chosen

    router.async_get_available_deployment = choose_and_note


def _record_failures(router: Untyped) -> None:
    call = router.make_call

    async def call_and_note(
        self: Untyped, original_function: Untyped, *words: Untyped, **options: Untyped
    ) -> Untyped:
        before = call_outcome.attempt_count()
        try:
            with _attempt_in_context():
                return await call(self, original_function, *words, **options)
        except Exception as error:
            attempt = call_outcome.record_attempt_error(before, error)
            if attempt is not None and attempt.group != WARM_UP_GROUP:
                attempt.credentials_rejected = rejects_credentials(error)
                for post in _post_rows:
                    post(
                        row_of_failed_attempt(str(options.get("litellm_call_id") or ""), before + 1, attempt)
                    )
            raise

    router.make_call = call_and_note


@contextmanager
def _attempt_in_context() -> Generator[None]:
    token = _IN_ATTEMPT.set(True)
    try:
        yield
    finally:
        _IN_ATTEMPT.reset(token)


def _record_sent(logging: Untyped) -> None:
    about_to_send = logging.pre_call

    def note_and_send(self: Untyped, *words: Untyped, **options: Untyped) -> Untyped:
        call_outcome.record_sent()
        return about_to_send(self, *words, **options)

    logging.pre_call = note_and_send


def _record_guardrail_errors(runner: Untyped, name: str, note: Callable[[BaseException], None]) -> None:
    hook = getattr(runner, name)

    async def note_what_it_raises(*words: Untyped, **options: Untyped) -> Untyped:
        try:
            return await hook(*words, **options)
        except Exception as refusal:
            note(refusal)
            raise

    setattr(runner, name, note_what_it_raises)


def _record_guardrail_errors_of_streams(runner: Untyped) -> None:
    check = runner.async_post_call_streaming_iterator_hook

    def check_and_note(self: Untyped, *words: Untyped, **options: Untyped) -> Untyped:
        checked = check(self, *words, **options)
        return noted(checked) if self.callback_capabilities().iterator_overrides else checked

    async def noted(checked: Untyped) -> AsyncGenerator[Untyped]:
        try:
            async for frame in checked:
                yield frame
        except Exception as refusal:
            if type(refusal).__name__ in GUARDRAIL_ERRORS:
                call_outcome.record_guardrail_error(refusal)
            raise
        finally:
            await checked.aclose()

    runner.async_post_call_streaming_iterator_hook = check_and_note


PATCH = LiteLLMPatch(
    name="attempts",
    install=install,
    reason=(
        "LiteLLM tells neither which deployments were tried before a fallback or a failure, nor whether a "
        "request was sent at all. Without this patch such calls have no attempts in their record, nothing is "
        "kept in the response cache, and guardrails' refusals are told as LiteLLM words them."
    ),
    since="1.106.2",
    report="To file: `name every attempted deployment in the response headers and in failure callbacks`.",
    until="LiteLLM names each attempt of a call, with its deployment and its error.",
    tests=(
        "tests/stages/test_sidecar_errors.py::test_a_failure_names_who_was_tried_last_and_how_often_was_tried",
        "tests/stages/test_sidecar_call_log.py::test_every_attempt_is_a_row",
    ),
    after_start=True,
)


@asynccontextmanager
async def callback_installed() -> AsyncGenerator[Untyped]:
    """Add the callback and return it; at the end write out what it holds."""
    url = os.environ.get("LLM_CALLS_DATABASE_URL")
    log = CallLog(url) if url else None
    added = make_callback(log)
    litellm_internals.litellm_module().callbacks.append(added)
    if log is None:
        yield added
        return
    set_call_log(log.post)
    await log.start()
    try:
        yield added
    finally:
        await log.stop()


def make_callback(log: CallLog | None) -> Untyped:
    """A callback for `litellm.callbacks`."""
    parent = litellm_internals.custom_logger_class()

    class Observer(parent):  # type: ignore[misc,valid-type]  # LiteLLM accepts no other kind of object
        async def async_post_call_failure_hook(self, original_exception: BaseException, **_: object) -> None:
            call_outcome.record_error(original_exception)

        async def async_log_success_event(
            self, kwargs: dict[str, Any], response_obj: object, start_time: datetime, end_time: datetime
        ) -> None:
            _post(log, row_of_event(kwargs, response_obj, start_time, end_time, is_cost_known))

        async def async_log_failure_event(
            self, kwargs: dict[str, Any], response_obj: object, start_time: datetime, end_time: datetime
        ) -> None:
            if not in_attempt():
                _post(log, row_of_event(kwargs, response_obj, start_time, end_time, is_cost_known))

    return Observer()


def _post(log: CallLog | None, found: tuple[Any, ...] | None) -> None:
    if log is not None and found is not None:
        log.post(found)
