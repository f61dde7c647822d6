"""Records what LiteLLM does for a call: each attempt, whether it was sent, guardrails that reject, its cost.

Invariants: each attempt gets a deployment from the router once and passes through `make_call`; an attempt
that fails there is a row of `llm_calls` written here; a success and a broken stream are rows written by the
callback. LiteLLM calls `pre_call` after the translation of a request and before it is sent.
"""

from collections.abc import AsyncGenerator, Callable

from llm_proxy.json_access import as_object
from llm_proxy.sidecar import answer_usage, call_outcome, callback, litellm_internals
from llm_proxy.sidecar.call_log import (
    WARM_UP_GROUP,
    row_of_failed_attempt,
    usage_fields,
)
from llm_proxy.sidecar.catalog import PROVIDER_KEY
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace
from llm_proxy.sidecar.patches.routing import rejects_credentials

GUARDRAIL_HOOKS = (
    "pre_call_hook",
    "during_call_hook",
    "post_call_success_hook",
    "async_post_call_streaming_hook",
)
"""Methods of LiteLLM's proxy that run guardrails of a call; the last runs them on each chunk of a stream."""
GROUP_GUARDRAIL_HOOKS = ("async_pre_call_deployment_hook", "async_post_call_success_deployment_hook")
"""Functions that run guardrails of one model group, within an attempt."""


def install() -> None:
    """Patch the router, LiteLLM's logging of a call, and the functions that run guardrails."""
    router, hooks = litellm_internals.router_class(), litellm_internals.proxy_logging_class()
    _record_deployments(router)
    _record_failures(router)
    _record_sent(litellm_internals.logging_class())
    for name in GUARDRAIL_HOOKS:
        _record_guardrail_errors(hooks, name, call_outcome.record_guardrail_error)
    _record_guardrail_errors_of_streams(hooks)
    _record_swallowed_guardrail_errors(litellm_internals.unified_guardrails_class())
    utils = litellm_internals.utils_module()
    for name in GROUP_GUARDRAIL_HOOKS:
        _record_guardrail_errors(utils, name, call_outcome.record_group_guardrail_error)


def _record_deployments(router: Untyped) -> None:
    async def choose_and_record(self: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        chosen = call_outcome.take_chosen_deployment()
        if chosen is not None:
            return chosen
        chosen = await choose(self, *args, **options)
        record_choice(chosen, options.get("model"))
        return chosen

    choose = replace(router, "async_get_available_deployment", choose_and_record)


def record_choice(chosen: Untyped, group: str | None) -> None:
    """Record that a deployment was chosen for the running call, of this group unless it names one."""
    params = as_object(as_object(chosen).get("litellm_params"))
    info = as_object(as_object(chosen).get("model_info"))
    deployment, provider = str(info.get("id") or ""), str(info.get(PROVIDER_KEY) or "")
    group = str(as_object(chosen).get("model_name") or group or "")
    model = str(params.get("model") or "")
    call_outcome.record_attempt(call_outcome.Attempt(group, deployment, model, provider=provider))


def _record_failures(router: Untyped) -> None:
    async def call_and_record(
        self: Untyped, original_function: Untyped, *args: Untyped, **options: Untyped
    ) -> Untyped:
        before = call_outcome.attempt_count()
        try:
            with callback.attempt_in_context():
                return await call(self, original_function, *args, **options)
        except Exception as error:
            attempt = call_outcome.record_attempt_error(before, error)
            if attempt is not None and attempt.group != WARM_UP_GROUP:
                attempt.credentials_rejected = rejects_credentials(error)
                callback.post(
                    row_of_failed_attempt(str(options.get("litellm_call_id") or ""), before + 1, attempt)
                )
            raise

    call = replace(router, "make_call", call_and_record)


def _record_sent(logging: Untyped) -> None:
    def record_and_send(self: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        call_outcome.record_sent()
        direct = call_outcome.direct_attempt()
        if direct is not None:
            direct.logging = self
            _date_back(self, direct)
        return pre_call(self, *args, **options)

    pre_call = replace(logging, "pre_call", record_and_send)


def _date_back(logging: Untyped, direct: call_outcome.DirectAttempt) -> None:
    """Let an attempt begin when its request was sent, not when LiteLLM was given the answer."""
    started, direct.started_at = direct.started_at, None
    if started is not None:
        logging.start_time = logging.model_call_details["start_time"] = started.astimezone().replace(
            tzinfo=None
        )


def _record_guardrail_errors(runner: Untyped, name: str, record: Callable[[BaseException], None]) -> None:
    async def call_and_record(*args: Untyped, **options: Untyped) -> Untyped:
        try:
            return await hook(*args, **options)
        except Exception as error:
            record(error)
            for answer in (*args, *options.values()):
                _record_usage(answer)
            raise

    hook = replace(runner, name, call_and_record)


def _record_usage(answer: Untyped) -> None:
    """Record what a rejected answer used; anything but a complete answer is ignored."""
    if type(answer).__name__ == "ImageResponse":
        call_outcome.record_rejected_usage(answer_usage.of_pictures(answer))
        return
    usage = usage_fields(answer)
    if usage.get("prompt_tokens") or usage.get("completion_tokens"):
        hidden = as_object(getattr(answer, "_hidden_params", None))
        call_outcome.record_rejected_usage(usage | {"cost": hidden.get("response_cost")})


def _record_guardrail_errors_of_streams(runner: Untyped) -> None:
    """Record what ends a checked stream, unless the provider's own stream ended so."""

    def check_and_record(self: Untyped, *, response: Untyped, **options: Untyped) -> Untyped:
        if not self.callback_capabilities().iterator_overrides:
            return check(self, response=response, **options)
        source = SourceStream(response)
        return recorded(check(self, response=source, **options), source)

    async def recorded(checked: Untyped, source: "SourceStream") -> AsyncGenerator[Untyped]:
        try:
            async for frame in checked:
                yield frame
        except Exception as error:
            if not source.failed:
                call_outcome.record_guardrail_error(error)
            raise
        finally:
            await checked.aclose()

    check = replace(runner, "async_post_call_streaming_iterator_hook", check_and_record)


class SourceStream:
    """A provider's stream as guardrails read it; `failed` says whether it raised."""

    def __init__(self, stream: Untyped) -> None:
        self._stream = stream
        self._frames: Untyped = aiter(stream)
        self.failed = False

    def __getattr__(self, name: str) -> Untyped:
        """Return an attribute of LiteLLM's stream."""
        return getattr(self._stream, name)

    def __aiter__(self) -> "SourceStream":
        """Return itself."""
        return self

    async def __anext__(self) -> Untyped:
        """Return the next chunk."""
        try:
            return await anext(self._frames)
        except Exception as error:
            self.failed = not isinstance(error, StopAsyncIteration)
            raise


def _record_swallowed_guardrail_errors(runner: Untyped) -> None:
    """Record a rejection that LiteLLM turns into a frame of the stream instead of raising it."""

    def record_and_emit(self: Untyped, exc: BaseException, *args: Untyped, **options: Untyped) -> Untyped:
        call_outcome.record_guardrail_error(exc)
        return emit(self, exc, *args, **options)

    emit = replace(runner, "emit_streaming_http_error", record_and_emit)


PATCH = LiteLLMPatch(
    name="attempts",
    install=install,
    reason=(
        "LiteLLM reports neither the deployments tried before a fallback or a failure, nor whether a request "
        "was sent. Without this patch such calls have no attempts in their record, the response cache stores "
        "nothing, and a guardrail's error has LiteLLM's message."
    ),
    until="LiteLLM names each attempt of a call, with its deployment and its error.",
    tests=(
        "tests/stages/sidecar/test_provider_errors.py::test_a_failure_names_the_last_deployment_and_the_attempts",
        "tests/stages/sidecar/test_call_log.py::test_every_attempt_is_a_row",
    ),
    after_start=True,
)
