"""Guardrails read documents of reranks and texts of transcriptions, which LiteLLM does not show them.

Invariants: a `during_call` guardrail has judged such a call before its provider gets it; a transcript is sent
as the guardrails left it, none before they have seen all of it. Moderations stay unread by guardrails that
judge texts alone.
"""

from importlib import import_module
from typing import Any

from llm_proxy.json_access import as_list, as_object, is_array
from llm_proxy.sidecar import call_outcome, litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

WITHOUT_DURING_CALL = frozenset({"rerank", "moderation", "image_generation", "aspeech", "transcription"})
"""LiteLLM's names of the calls for which it runs no `during_call` guardrail."""
HANDLERS = {
    "litellm.llms.cohere.rerank.guardrail_translation.handler": "CohereRerankHandler",
    "litellm.llms.openai.transcriptions.guardrail_translation.handler": "OpenAIAudioTranscriptionHandler",
}
"""What shows guardrails the texts of a call."""


def install() -> None:
    """Patch LiteLLM's handlers and what runs guardrails; before the first call."""
    for module, name in HANDLERS.items():
        _show_all(getattr(import_module(module), name))
    runner = litellm_internals.proxy_logging_class()
    _run_before(runner)
    _judge_transcripts(runner)


def _show_all(handler: Untyped) -> None:
    async def process_all(
        self: Untyped, data: dict[str, Any], guardrail_to_apply: Untyped, litellm_logging_obj: Untyped = None
    ) -> Untyped:
        data = await process(self, data, guardrail_to_apply, litellm_logging_obj)
        if places := _unread_texts(data):
            judged = await guardrail_to_apply.apply_guardrail(
                inputs={"texts": [owner[key] for owner, key in places], "model": data.get("model")},
                request_data=data,
                input_type="request",
                logging_obj=litellm_logging_obj,
            )
            for (owner, key), text in zip(places, as_list(as_object(judged).get("texts")), strict=False):
                owner[key] = text
        return data

    process = replace(handler, "process_input_messages", process_all)


def _unread_texts(data: dict[str, Any]) -> list[tuple[Untyped, Untyped]]:
    """Return where the texts are that LiteLLM's handlers leave out: in what, and under which key."""
    places: list[tuple[Untyped, Untyped]] = [(data, "prompt")] if isinstance(data.get("prompt"), str) else []
    documents: Untyped = data.get("documents")
    for index, document in enumerate(documents if is_array(documents) else ()):
        if isinstance(document, str):
            places.append((documents, index))
        else:
            texts = as_object(document).items()
            places += [(document, key) for key, text in texts if isinstance(text, str)]
    return places


def _run_before(runner: Untyped) -> None:
    async def pre_and_during_call(
        self: Untyped, user_api_key_dict: Untyped, data: Untyped, call_type: str, **options: Untyped
    ) -> Untyped:
        data = await pre_call(
            self, user_api_key_dict=user_api_key_dict, data=data, call_type=call_type, **options
        )
        if call_type in WITHOUT_DURING_CALL and data is not None:
            await self.during_call_hook(data=data, user_api_key_dict=user_api_key_dict, call_type=call_type)
        form = call_outcome.form()
        if form is not None and data is not None:
            form.is_judged = litellm_internals.has_guardrail_after(data)
        return data

    pre_call = replace(runner, "pre_call_hook", pre_and_during_call)


def _judge_transcripts(runner: Untyped) -> None:
    async def judge_and_add_headers(self: Untyped, **options: Untyped) -> Untyped:
        form, transcript = call_outcome.form(), options["response"]
        if form is not None and form.is_judged:
            before = transcript.text
            judged = await self.post_call_success_hook(
                data=options["data"], response=transcript, user_api_key_dict=options["user_api_key_dict"]
            )
            text = getattr(judged, "text", before)
            form.masked = text if text != before else None
        return await add_headers(self, **options)

    add_headers = replace(runner, "post_call_response_headers_hook", judge_and_add_headers)


PATCH = LiteLLMPatch(
    name="guarded_media",
    install=install,
    reason=(
        "LiteLLM's guardrails see neither the documents of a rerank nor the prompt and the text of a "
        "transcription, and those of `during_call` see no rerank, moderation, image or audio at all: what "
        "they would block or mask passes."
    ),
    until="LiteLLM shows guardrails these texts and runs them in every mode at these endpoints.",
    tests=("tests/stages/sidecar/test_guardrails_of_media.py",),
)
