"""Forms with audio reach providers that speak OpenAI's protocol as they were sent, from the disk.

Invariants: the provider gets the caller's fields and no other; the answer's bytes are kept as they came;
routing, retries, fallbacks, cooldowns and the log stay LiteLLM's, as do translations for other providers.
"""

from importlib import import_module
from types import SimpleNamespace

from llm_proxy.json_access import read_object
from llm_proxy.sidecar import call_outcome, forms, litellm_internals
from llm_proxy.sidecar.event_stream import EVENT_STREAM, EventDecoder, media_type
from llm_proxy.sidecar.forms import SentForm
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace
from llm_proxy.sidecar.patches.provider_http import raise_stated_failure
from llm_proxy.sidecar.provider_errors import StatedFailure, find_failure
from llm_proxy.sidecar.transcripts import HeldEvents, last_event

TRANSLATIONS = "/audio/translations"
OPENAI_FIELDS = ("language", "prompt", "response_format", "temperature", "timestamp_granularities", "user")
TRANSLATED_FIELDS = frozenset({"language", "prompt", "temperature", "timestamp_granularities"})
TEXTS = frozenset({"text", "srt", "vtt"})
"""Formats of an answer that are no JSON."""
PAGE = "text/html"
"""Of a proxy's or a sign-in page, never a transcript's."""
NO_TRANSCRIPT = StatedFailure(502, {"error": {"message": "The provider's answer has no transcript."}})
UNTRANSLATED_FORMATS = frozenset({"srt", "vtt", "diarized_json"})
RAW_HEADER = "X-Stainless-Raw-Response"
"""Of OpenAI's client: with `stream` it leaves the answer unread."""


def install() -> None:
    """Patch OpenAI's client and LiteLLM's function; before the first call."""
    forms.enable_sending_from_disk("/audio/transcriptions", TRANSLATIONS)
    _send_as_sent()
    _give_others_the_file()


def _send_as_sent() -> None:
    resources: Untyped = import_module("openai.resources.audio.transcriptions")

    async def create_as_sent(self: Untyped, *, model: str, **others: Untyped) -> Untyped:
        form = call_outcome.form()
        if form is None:
            return await create(self, model=model, **others)
        form.forget_answer()
        headers = {"Content-Type": "multipart/form-data", RAW_HEADER: "stream"}
        response = await self._post(
            form.operation,
            body={"model": model, **form.fields},
            files=[one.part() for one in form.files],
            options={"headers": headers, "timeout": others.get("timeout")},
            cast_to=import_module("httpx").Response,
        )
        parsed = await _keep_answer(form, response)
        return SimpleNamespace(headers=dict(response.headers), parse=lambda: parsed)

    create = replace(resources.AsyncTranscriptions, "create", create_as_sent)


async def _keep_answer(form: SentForm, response: Untyped) -> Untyped:
    """Keep a provider's answer for the caller; return what LiteLLM gets of it."""
    content_type = str(response.headers.get("content-type", ""))
    kind = media_type(content_type)
    events = form.streams and kind == EVENT_STREAM
    if events and not form.is_judged:
        form.stream = response
        return ""
    answer = await response.aread()
    if events:
        decoder = EventDecoder()
        last = last_event([*decoder.feed(answer), *decoder.flush()])
        if last is None:
            raise_stated_failure(NO_TRANSCRIPT)
        form.stream = HeldEvents(answer, last)
        return str(last.get("text") or "")
    document = read_object(answer)
    failure = find_failure(document)
    is_text = requested_format(form) in TEXTS and kind != PAGE
    if failure is None and (not answer or not (document or is_text)):
        failure = NO_TRANSCRIPT
    if failure is not None:
        raise_stated_failure(failure)
    form.answer, form.document, form.content_type = answer, document, content_type
    if not document:
        return answer.decode("utf-8", "replace")
    known = import_module("openai.types.audio").Transcription
    return known.model_construct(**{"text": "", **document})


def _give_others_the_file() -> None:
    litellm: Untyped = import_module("litellm")
    main: Untyped = import_module("litellm.main")
    constants = import_module("litellm.constants")

    def transcription_of_form(*args: Untyped, **options: Untyped) -> Untyped:
        form = call_outcome.form()
        if form is None or not form.files:
            return transcription(*args, **options)
        model, provider, *_ = litellm_internals.provider_of(options)
        config = litellm.utils.ProviderConfigManager.get_provider_audio_transcription_config(
            model=model, provider=litellm.LlmProviders(provider)
        )
        openai = provider in constants.OPENAI_AUDIO_TRANSCRIPTION_PROVIDERS and not (
            config is not None and config.has_native_transcription_endpoint
        )
        if openai or (provider in constants.AZURE_OPENAI_AUDIO_PROVIDERS and config is None):
            if form.fields.get("prompt") and isinstance(options.get("prompt"), str):
                form.fields["prompt"] = options["prompt"]  # a guardrail may have masked it
            options = {name: value for name, value in options.items() if name not in OPENAI_FIELDS}
            return transcription(*args, **options)
        known = frozenset(config.get_supported_openai_params(model) if config is not None else OPENAI_FIELDS)
        if requested_format(form) == "text" or "response_format" not in known:
            options.pop("response_format", None)
        may_drop = bool(litellm.drop_params or options.get("drop_params"))
        why = _untranslatable(form, known | TRANSLATED_FIELDS if may_drop else known)
        if why is not None:
            error = litellm.NotFoundError if form.operation == TRANSLATIONS else litellm.BadRequestError
            raise error(message=why, model=model, llm_provider=provider)
        return transcription(*args, **{**options, "file": form.files[0].file()})

    transcription = replace(main, "transcription", transcription_of_form)


def requested_format(form: SentForm) -> str:
    """Return the format of the answer that the caller requested."""
    return str(form.fields.get("response_format", "json"))


def _untranslatable(form: SentForm, known: frozenset[str]) -> str | None:
    """Return what a provider with a protocol of its own lacks: the operation, a format or a field."""
    if form.operation == TRANSLATIONS:
        return "This model's provider has no /v1/audio/translations."
    requested = requested_format(form)
    if requested in UNTRANSLATED_FORMATS:
        return f"This model's provider has no response_format '{requested}'."
    lacking = sorted(form.fields.keys() & TRANSLATED_FIELDS - known)
    return f"This model's provider has no '{lacking[0]}'." if lacking else None


PATCH = LiteLLMPatch(
    name="forms_as_sent",
    install=install,
    reason=(
        "LiteLLM reads audio files whole into memory, drops `stream` and fields its lists lack, asks whisper "
        "for verbose_json, turns text, srt and vtt into JSON, and has no audio translations."
    ),
    until="LiteLLM passes audio forms and their answers through as they are.",
    tests=("tests/stages/sidecar/test_transcripts.py",),
)
