"""Image calls at a provider that speaks OpenAI's format: streamed on request, their answers passed as bytes.

Invariants: LiteLLM sees a whole answer without its pictures, with usage, size and quality; a stream that has
begun is not made again; fields that another provider's models lack are left out, or refused, as `drop_params`
says.
"""

from importlib import import_module

from llm_proxy.json_access import Json
from llm_proxy.media_frames import MAX_EVENT_BYTES, without_pictures
from llm_proxy.sidecar import call_outcome, forms, image_edits, images, litellm_internals
from llm_proxy.sidecar.event_channel import EventChannel
from llm_proxy.sidecar.event_stream import EVENT_STREAM
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import provider_http
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace
from llm_proxy.sse import FrameGate

MAIN = "litellm.images.main"
OPENAI_FIELDS = frozenset(
    {
        "background", "complexity", "frame_count", "frame_duration_ms", "input_fidelity", "moderation",
        "output_compression", "output_format", "partial_images", "prompt_rewriter", "response_format",
        "safety_identifier", "svg",
    }
)  # fmt: skip
"""Fields of OpenAI's that LiteLLM would send to any provider as they are."""
OWN_FIELDS = ("quality", "response_format", "style")
"""Fields of OpenAI's that LiteLLM refuses by a model's name, whatever server is at the address."""
HINTS = frozenset({"partial_images", "safety_identifier"})
"""Fields whose absence leaves the answer the same."""
OPENAI_MODULES = ("litellm.llms.openai", "litellm.llms.azure")
PICTURE_MARKS = (b'"bytesBase64Encoded"', b'"inlineData"', b'"inline_data"', b'"image')
"""Parts of an answer that has a picture: Imagen's, Gemini's, Stability's and others'."""


def install() -> None:
    """Patch httpx, after `provider_http`, and LiteLLM's choice of fields; before the first call."""
    forms.enable_sending_from_disk(image_edits.OPERATION)
    client = import_module("httpx").AsyncClient

    async def send_image_call(self: Untyped, request: Untyped, **options: Untyped) -> Untyped:
        call = call_outcome.image_call()
        if call is None or request.method != "POST":
            return await send(self, request, **options)
        call.answer = None
        if not str(request.url.path).endswith(images.PATHS):
            return await _check_other_format(await send(self, request, **options))
        if call.edit is not None:
            await request.aread()
            request = call.edit.request(request)
        if call.events is None:
            return await _read_whole(await send(self, request, **options | {"stream": True}), call)
        if call.events.started:
            return provider_http.failure_response(call.events.failure or images.truncated(), request)
        if call.edit is None:
            request = provider_http.with_fields(request, {"stream": True})
        response = await send(self, request, **options | {"stream": True})
        if str(response.headers.get("content-type") or "").startswith(EVENT_STREAM) and response.is_success:
            return await _pass_events(response, call.events)
        return await _read_whole(response, call)

    send = replace(client, "send", send_image_call)
    _call_in_the_loop()
    _ask_once()
    _give_pictures()
    _keep_masked_prompts()
    _leave_out_fields()


async def _read_whole(response: Untyped, call: images.ImageCall) -> Untyped:
    """Keep a whole answer for the caller; return it without its pictures, or the failure that it states."""
    raw = await response.aread()
    if not response.is_success:
        return response
    shell = without_pictures(raw)
    failure = images.find_failure_in_answer(shell)
    if failure is not None:
        return provider_http.failure_response(failure, response.request)
    if litellm_internals.has_guardrail():
        return response  # it may judge the pictures, or the prompts that the provider revised
    call.answer = raw
    response._content = shell  # noqa: SLF001 -- httpx has no setter
    return response


async def _pass_events(response: Untyped, events: EventChannel) -> Untyped:
    """Pass a stream's events on; return what they state as a whole answer, or the failure that broke it."""
    gate, summary, cause = FrameGate(MAX_EVENT_BYTES), images.StreamSummary(), ""
    try:
        async for chunk in response.aiter_bytes():
            frames = gate.feed(chunk)
            if frames:
                summary.read(frames)
                if summary.fails_at_once:
                    break  # a response can still say so
                await events.put(frames)
        cause = "the end within an event" if gate.close().strip() else ""
    except Exception as error:  # noqa: BLE001 -- whatever broke the stream
        cause = type(error).__name__
    finally:
        await response.aclose()
    answer = summary.answer()
    if summary.failure is not None or cause or answer is None:
        events.failure = summary.failure or images.truncated(cause)
        return provider_http.failure_response(events.failure, response.request)
    headers = {"content-type": "application/json"}
    return import_module("httpx").Response(200, headers=headers, content=answer, request=response.request)


async def _check_other_format(response: Untyped) -> Untyped:
    """Return another provider's answer; without a picture the failure or the rejection that it states."""
    raw: bytes = await response.aread()
    if not response.is_success or any(mark in raw for mark in PICTURE_MARKS):
        return response
    failure = images.REJECTED if images.REJECTION.search(raw) else images.find_stated_failure(raw)
    return response if failure is None else provider_http.failure_response(failure, response.request)


def _call_in_the_loop() -> None:
    """Send the requests of most providers asynchronously: in LiteLLM's threads none can be cancelled."""
    handler: Untyped = import_module(MAIN).llm_http_handler

    def call_asynchronously(**options: Untyped) -> Untyped:
        return call(**options | {"_is_async": call_outcome.running() is not None})

    call = replace(handler, "image_generation_handler", call_asynchronously)


def _ask_once() -> None:
    """Leave retries to the router: OpenAI's SDK would make two for each of its own, uncounted."""
    client: Untyped = import_module(MAIN).openai_chat_completions

    def call_once(*, optional_params: Untyped, **options: Untyped) -> Untyped:
        return call(optional_params={**optional_params, "max_retries": 0}, **options)

    call = replace(client, "image_generation", call_once)


def _give_pictures() -> None:
    """Give LiteLLM the pictures of an edit where it translates them; else they are sent from the disk."""
    main: Untyped = import_module(MAIN)

    def edit_pictures(*args: Untyped, **options: Untyped) -> Untyped:
        call = call_outcome.image_call()
        if call is None or call.edit is None or _edits_as_openai(options):
            return edit(*args, **options)
        try:
            pictures = call.edit.pictures()
        except image_edits.UnreadableLink as error:
            model, message = str(options.get("model")), "This model takes pictures as files or `data:` URLs."
            raise import_module("litellm").BadRequestError(message, model=model, llm_provider="") from error
        return edit(*args, **options | pictures)

    edit = replace(main, "image_edit", edit_pictures)


def _keep_masked_prompts() -> None:
    """Keep what a guardrail made of a prompt: LiteLLM writes the one over it that it had before."""
    hooks: Untyped = litellm_internals.proxy_logging_class()

    async def run_and_keep(self: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        is_image = options.get("call_type") == "image_generation"
        before = options["data"].get("prompt") if is_image else None
        checked = await run(self, *args, **options)
        if before is not None and checked.get("prompt") != before:
            checked["messages"] = [{"role": "user", "content": checked["prompt"]}]
        return checked

    run = replace(hooks, "pre_call_hook", run_and_keep)


def _edits_as_openai(options: Json) -> bool:
    """Whether a call of LiteLLM's edits pictures at OpenAI's operation, wherever its address is."""
    library = import_module("litellm")
    model, provider, _, found = litellm_internals.provider_of(options)
    config = library.ProviderConfigManager.get_provider_image_edit_config(
        model=model, provider=library.LlmProviders(provider)
    )
    if config is None or not config.use_multipart_form_data():
        return False
    base = options.get("api_base") or found or None
    url = str(config.get_complete_url(model=model, api_base=base, litellm_params=options))
    return url.partition("?")[0].endswith(image_edits.OPERATION)


def _leave_out_fields() -> None:
    main: Untyped = import_module(MAIN)

    def choose_known(*, model: str, provider_config: Untyped = None, **options: Untyped) -> Untyped:
        library = import_module("litellm")
        drops = bool(options.get("drop_params") or library.drop_params)
        if provider_config is None:
            return choose(model=model, **options)
        if type(provider_config).__module__.startswith(OPENAI_MODULES):
            own = {} if drops else {name: options.pop(name) for name in OWN_FIELDS if options.get(name)}
            chosen: Json = choose(model=model, provider_config=provider_config, **options)
            return chosen | own
        known = provider_config.get_supported_openai_params(model)
        lacking = {
            name
            for name in OPENAI_FIELDS
            if name not in known and options.get(name) not in (None, "b64_json")
        }
        if lacking - HINTS and not drops:
            provider, names = str(options.get("custom_llm_provider") or ""), sorted(lacking - HINTS)
            message = f"{provider} does not support parameters: {names}, for model={model}"
            raise library.UnsupportedParamsError(message=message, llm_provider=provider, model=model)
        kept = {name: value for name, value in options.items() if name not in OPENAI_FIELDS or name in known}
        return choose(model=model, provider_config=provider_config, **kept)

    choose = replace(main, "get_optional_params_image_gen", choose_known)


PATCH = LiteLLMPatch(
    name="image_calls",
    install=install,
    reason=(
        "LiteLLM fails on streamed images after they were made, drops fields of whole answers and invents "
        "others, sends a prompt as it was before a guardrail masked it, renames the files of edits and drops "
        "their links, sends fields to providers that do not know them, calls most of them in threads where "
        "nothing can be cancelled, has OpenAI's SDK retry on its own, and parses and writes pictures of many "
        "megabytes several times."
    ),
    until="Streamed images pass through LiteLLM, and whole answers pass unchanged.",
    tests=(
        "tests/stages/sidecar/test_images.py",
        "tests/stages/sidecar/test_image_edits.py",
        "tests/stages/sidecar/test_guardrails.py::test_the_prompt_of_an_image_is_checked_and_masked",
    ),
)
