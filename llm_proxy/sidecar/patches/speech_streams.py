"""Speech is passed on as it comes, with every field of the request.

Invariant: OpenAI's SDK makes the request.
"""

from importlib import import_module
from types import SimpleNamespace

from llm_proxy.sidecar import call_outcome, speech
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import provider_http
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace
from llm_proxy.sidecar.provider_errors import StatedFailure, find_failure_in_text

SPEECH = "openai.resources.audio.speech"
AS_STREAM = "X-Stainless-Raw-Response"
"""The SDK's own header, by which it knows that it is not to read the answer; it is not sent."""
MAX_ERROR_BYTES = 2**16
NO_AUDIO = StatedFailure(502, {"error": {"message": "the provider's answer is no audio"}})


def install() -> None:
    """Patch the SDK with which LiteLLM calls OpenAI, Azure and servers of OpenAI's protocol."""
    resource: Untyped = import_module(SPEECH).AsyncSpeech

    async def create_unread(self: Untyped, **options: Untyped) -> Untyped:
        call = call_outcome.speech_call()
        if call is None or AS_STREAM in (options.get("extra_headers") or {}):
            return await create(self, **options)
        fields = {name: value for name, value in call.fields.items() if name != "voice"}
        voice = call.fields.get("voice", options.get("voice"))
        opening = self.with_streaming_response.create(**options | {"voice": voice}, extra_body=fields)
        opened = await opening.__aenter__()  # closed by `speech`, with the response
        call.answer = opened.http_response
        await _raise_if_no_audio(call.answer)
        return SimpleNamespace(response=opened.http_response)

    create = replace(resource, "create", create_unread)


async def _raise_if_no_audio(response: Untyped) -> None:
    """Raise LiteLLM's exception for an answer that is a page or an object, so that the call is repeated."""
    if speech.is_audio(response.headers.get("content-type", "")):
        return
    raw = b""
    try:
        async for chunk in response.aiter_bytes():
            raw += chunk
            if len(raw) > MAX_ERROR_BYTES:
                break
    finally:
        await response.aclose()
    stated = find_failure_in_text(raw.decode(errors="replace"))
    provider_http.raise_stated_failure(stated or NO_AUDIO)


PATCH = LiteLLMPatch(
    name="speech_streams",
    install=install,
    reason="LiteLLM reads speech to its end before it passes it on, and drops `stream_format` and more.",
    until="LiteLLM passes speech on as it comes, with all fields of the request.",
    tests=("tests/stages/sidecar/test_speech.py::test_bytes_are_passed_on_as_they_come",),
)
