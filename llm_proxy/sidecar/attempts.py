"""Notes what LiteLLM does for a call: every attempt, requests sent, guardrails that refuse.

LiteLLM names no deployment of a failure and forgets those before a fallback. Invariants: every attempt, a
retry or a fallback, asks the router for a deployment once and passes through its `make_call`; one that fails
there is a row of `llm_calls` written here, one that answered is LiteLLM's to tell of, a broken stream too.
LiteLLM calls `pre_call` once a request is in its provider's words, before it is sent.
"""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

from llm_proxy.sidecar import outcome, seams
from llm_proxy.sidecar.call_row import OUR_OWN, Row, failed_row
from llm_proxy.sidecar.catalog import OWN_WORD
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.router_rules import refuses_credentials
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import mapping

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


def apply() -> None:
    """Patch router, call log and guardrails' runner."""
    outcome.attempts_are_noted()
    router = seams.router_class()
    _note_deployments(router)
    _note_failures(router)
    _note_sent(seams.call_logging())
    for name in HOOKS:
        _note_refusals(seams.proxy_logging(), name, outcome.refused_by_hook)
    _note_refused_streams(seams.proxy_logging())
    for name in HOOKS_OF_A_GROUP:
        _note_refusals(seams.utilities(), name, outcome.refused_by_group)


def is_calling() -> bool:
    """Whether an attempt runs: then its failure is told of here, and nowhere else."""
    return _CALLING.get()


def _note_deployments(router: Theirs) -> None:
    choose = router.async_get_available_deployment

    async def choose_and_note(self: Theirs, *words: Theirs, **options: Theirs) -> Theirs:
        chosen = await choose(self, *words, **options)
        params = mapping(mapping(chosen).get("litellm_params"))
        info = mapping(mapping(chosen).get("model_info"))
        deployment, provider = str(info.get("id") or ""), str(info.get(OWN_WORD) or "")
        group = str(mapping(chosen).get("model_name") or options.get("model") or "")
        model = str(params.get("model") or "")
        outcome.tried(outcome.Attempt(group, deployment, model, provider=provider))
        return chosen

    router.async_get_available_deployment = choose_and_note


def _note_failures(router: Theirs) -> None:
    call = router.make_call

    async def call_and_note(
        self: Theirs, original_function: Theirs, *words: Theirs, **options: Theirs
    ) -> Theirs:
        before = outcome.attempts()
        try:
            with _calling():
                return await call(self, original_function, *words, **options)
        except Exception as error:
            attempt = outcome.failed(before, error)
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
        outcome.sent()
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
                outcome.refused_by_hook(refusal)
            raise
        finally:
            await checked.aclose()

    runner.async_post_call_streaming_iterator_hook = check_and_note


PATCH = Patch(
    name="attempts",
    install=apply,
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
