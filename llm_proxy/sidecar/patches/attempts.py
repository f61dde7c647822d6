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
from llm_proxy.sidecar.call_log import OUR_OWN, CallLog, Row, failed_row, row
from llm_proxy.sidecar.catalog import OWN_WORD, is_known
from llm_proxy.sidecar.litellm_internals import Theirs
from llm_proxy.sidecar.patches.patch import Patch
from llm_proxy.sidecar.patches.routing import refuses_credentials

Post = Callable[[Row], None]
HOOKS = ("pre_call_hook", "during_call_hook", "post_call_success_hook")
"""What runs an owner's guardrails."""
HOOKS_OF_A_GROUP = ("async_pre_call_deployment_hook", "async_post_call_success_deployment_hook")
"""What runs those of one model group, within an attempt."""
REFUSALS = frozenset({"BlockedPiiEntityError", "GuardrailRaisedException", "HTTPException"})
"""What guardrails raise, and no provider's stream."""
_CALLING: ContextVar[bool] = ContextVar("calling", default=False)
_log: list[Post] = []
"""Takes a row for each attempt that failed; empty while there is no call log."""


def log_to(post: Post) -> None:
    """Hand each failed attempt's row to the call log."""
    _log[:] = [post]


def install() -> None:
    """Patch router, call log and guardrails' runner."""
    call_outcome.attempts_are_noted()
    router = litellm_internals.router_class()
    _note_deployments(router)
    _note_failures(router)
    _note_sent(litellm_internals.call_logging())
    for name in HOOKS:
        _note_refusals(litellm_internals.proxy_logging(), name, call_outcome.refused_by_hook)
    _note_refused_streams(litellm_internals.proxy_logging())
    for name in HOOKS_OF_A_GROUP:
        _note_refusals(litellm_internals.utilities(), name, call_outcome.refused_by_group)


def is_calling() -> bool:
    """Whether an attempt runs: then its failure is told of here, and nowhere else."""
    return _CALLING.get()


def _note_deployments(router: Theirs) -> None:
    choose = router.async_get_available_deployment

    async def choose_and_note(self: Theirs, *words: Theirs, **options: Theirs) -> Theirs:
        chosen = await choose(self, *words, **options)
        params = as_object(as_object(chosen).get("litellm_params"))
        info = as_object(as_object(chosen).get("model_info"))
        deployment, provider = str(info.get("id") or ""), str(info.get(OWN_WORD) or "")
        group = str(as_object(chosen).get("model_name") or options.get("model") or "")
        model = str(params.get("model") or "")
        call_outcome.tried(call_outcome.Attempt(group, deployment, model, provider=provider))
        return chosen

    router.async_get_available_deployment = choose_and_note


def _note_failures(router: Theirs) -> None:
    call = router.make_call

    async def call_and_note(
        self: Theirs, original_function: Theirs, *words: Theirs, **options: Theirs
    ) -> Theirs:
        before = call_outcome.attempts()
        try:
            with _calling():
                return await call(self, original_function, *words, **options)
        except Exception as error:
            attempt = call_outcome.failed(before, error)
            if attempt is not None and attempt.group != OUR_OWN:
                attempt.refused = refuses_credentials(error)
                for post in _log:
                    post(failed_row(str(options.get("litellm_call_id") or ""), before + 1, attempt))
            raise

    router.make_call = call_and_note


@contextmanager
def _calling() -> Generator[None]:
    token = _CALLING.set(True)
    try:
        yield
    finally:
        _CALLING.reset(token)


def _note_sent(logging: Theirs) -> None:
    about_to_send = logging.pre_call

    def note_and_send(self: Theirs, *words: Theirs, **options: Theirs) -> Theirs:
        call_outcome.sent()
        return about_to_send(self, *words, **options)

    logging.pre_call = note_and_send


def _note_refusals(runner: Theirs, name: str, note: Callable[[BaseException], None]) -> None:
    hook = getattr(runner, name)

    async def note_what_it_raises(*words: Theirs, **options: Theirs) -> Theirs:
        try:
            return await hook(*words, **options)
        except Exception as refusal:
            note(refusal)
            raise

    setattr(runner, name, note_what_it_raises)


def _note_refused_streams(runner: Theirs) -> None:
    check = runner.async_post_call_streaming_iterator_hook

    def check_and_note(self: Theirs, *words: Theirs, **options: Theirs) -> Theirs:
        checked = check(self, *words, **options)
        return noted(checked) if self.callback_capabilities().iterator_overrides else checked

    async def noted(checked: Theirs) -> AsyncGenerator[Theirs]:
        try:
            async for frame in checked:
                yield frame
        except Exception as refusal:
            if type(refusal).__name__ in REFUSALS:
                call_outcome.refused_by_hook(refusal)
            raise
        finally:
            await checked.aclose()

    runner.async_post_call_streaming_iterator_hook = check_and_note


PATCH = Patch(
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
async def installed() -> AsyncGenerator[Theirs]:
    """Add the callback and return it; at the end write out what it holds."""
    url = os.environ.get("LLM_CALLS_DATABASE_URL")
    log = CallLog(url) if url else None
    added = observer(log)
    litellm_internals.library().callbacks.append(added)
    if log is None:
        yield added
        return
    log_to(log.post)
    await log.start()
    try:
        yield added
    finally:
        await log.stop()


def observer(log: CallLog | None) -> Theirs:
    """A callback for `litellm.callbacks`."""
    parent = litellm_internals.custom_logger()

    class Observer(parent):  # type: ignore[misc,valid-type]  # LiteLLM accepts no other kind of object
        async def async_post_call_failure_hook(self, original_exception: BaseException, **_: object) -> None:
            call_outcome.note(original_exception)

        async def async_log_success_event(
            self, kwargs: dict[str, Any], response_obj: object, start_time: datetime, end_time: datetime
        ) -> None:
            _post(log, row(kwargs, response_obj, start_time, end_time, is_known))

        async def async_log_failure_event(
            self, kwargs: dict[str, Any], response_obj: object, start_time: datetime, end_time: datetime
        ) -> None:
            if not is_calling():
                _post(log, row(kwargs, response_obj, start_time, end_time, is_known))

    return Observer()


def _post(log: CallLog | None, found: tuple[Any, ...] | None) -> None:
    if log is not None and found is not None:
        log.post(found)
