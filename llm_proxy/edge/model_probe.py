"""One small call to a model on an operator's request: what it requests, by mode, and what it may cost.

Invariants: a probe runs by the code of every call, never from a cache or a fallback, and is recorded like any
call; one that may cost more than `PROBE_MAX_USD`, or an image of unknown price, is not made.
"""

import asyncio
import io
import wave
from dataclasses import dataclass
from decimal import Decimal

from llm_proxy.call_context import CallContext
from llm_proxy.dialects import Call
from llm_proxy.dialects.request.requested_quantities import requested_quantities
from llm_proxy.endpoints import OPAQUE_ENDPOINTS, TRANSCRIPTS, Endpoint
from llm_proxy.errors import APIError, BadRequest
from llm_proxy.identity import Caller
from llm_proxy.json_access import Json
from llm_proxy.money import nano_to_usd
from llm_proxy.pipeline import Services, process_call
from llm_proxy.telemetry import uuid7
from llm_proxy.uploads import UploadedFile, Uploads, UploadSpace
from llm_proxy.upstream import interrupt_error

PROBE_MAX_TOKENS = 16
PROBE_MAX_USD = Decimal("0.05")
PROBE_UPLOAD_BYTES = 2**20
PROBE_TIMEOUT_S = 60.0
PROBE_CALLER = Caller("admin:test", "internal", key_prefix="admin:test", cache=False)
_PROMPT = "Answer with one word: yes."
_CHAT: tuple[Endpoint, Json] = (
    "chat.completions",
    {"messages": [{"role": "user", "content": _PROMPT}], "max_tokens": PROBE_MAX_TOKENS},
)
_PROBES: dict[str, tuple[Endpoint, Json]] = {
    "chat": _CHAT,
    "responses": _CHAT,
    "completion": ("completions", {"prompt": _PROMPT, "max_tokens": PROBE_MAX_TOKENS}),
    "embedding": ("embeddings", {"input": _PROMPT}),
    "rerank": ("rerank", {"query": _PROMPT, "documents": ["yes", "no"]}),
    "moderation": ("moderations", {"input": _PROMPT}),
    "audio_speech": ("audio.speech", {"input": "Yes.", "voice": "alloy"}),
    "audio_transcription": ("audio.transcriptions", {"response_format": "json"}),
    "image_generation": ("images.generations", {"prompt": "A grey square.", "n": 1}),
}
_CHEAPEST_IMAGE: dict[str, Json] = {"gpt-image": {"quality": "low", "size": "1024x1024"}}
"""A beginning of a provider's names -> the fields of its cheapest image."""


class NotTested(BadRequest):
    """No probe is made: there is none for the model's mode, or it may cost too much."""

    default_code = "not_tested"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a probe; `error` is None if the call succeeded."""

    context: CallContext
    latency_ms: float
    error: APIError | None


class ModelProbe:
    """Makes one small call to a model group."""

    def __init__(self, services: Services, uploads: UploadSpace) -> None:
        self._services = services
        self._uploads = uploads

    async def __call__(self, group: str, mode: str) -> ProbeResult:
        """Calls a group; raises `NotTested` where its mode has no probe, or one that costs too much."""
        if mode not in _PROBES:
            raise NotTested(f"There is no test for a model of mode `{mode}`.")
        endpoint, fields = _PROBES[mode]
        body: Json = {"model": group, **fields, **self._cheapest(group, endpoint), "disable_fallbacks": True}
        with self._uploads.open() as uploads:
            files = (await _silence(uploads),) if endpoint in TRANSCRIPTS else ()
            call = Call(
                endpoint, "openai", group, group, body,
                max_tokens=body.get("max_tokens"), prompt_bytes=len(_PROMPT), files=files,
                quantities=requested_quantities(endpoint, body, files),
            )  # fmt: skip
            self._reject_expensive(call)
            context = CallContext(uuid7(), caller=PROBE_CALLER, call=call)
            error = await self._run(context)
        return ProbeResult(context, context.elapsed_ms(), error)

    def _cheapest(self, group: str, endpoint: Endpoint) -> Json:
        """Returns the fields of a group's cheapest image, where they are known for all its deployments."""
        catalog = self._services.catalog.snapshot
        found = (
            catalog.find_group(group) if catalog is not None and endpoint == "images.generations" else None
        )
        names = [one.provider_model for one in found.deployments] if found is not None else []
        for start, fields in _CHEAPEST_IMAGE.items():
            if names and all(name.startswith(start) for name in names):
                return fields
        return {}

    def _reject_expensive(self, call: Call) -> None:
        """Raises `NotTested` for a call that may cost more than `PROBE_MAX_USD`."""
        if call.endpoint not in OPAQUE_ENDPOINTS:  # `PROBE_MAX_TOKENS` bounds the others
            return
        most = self._services.catalog.most_of_units(call, len(_PROMPT), 0)
        if most is None and call.quantities.images:
            raise NotTested("The price of its images is not known, so the cost of a test has no bound.")
        if most is not None and (cost_usd := nano_to_usd(most)) > PROBE_MAX_USD:
            message = f"A test may cost ${cost_usd.normalize():f}, which is more than ${PROBE_MAX_USD}."
            raise NotTested(message)

    async def _run(self, context: CallContext) -> APIError | None:
        services = self._services
        guard = services.running_calls.open(context, float("inf"))
        guard.total_deadline = asyncio.get_running_loop().time() + PROBE_TIMEOUT_S
        try:
            async with process_call(services, context, guard) as admitted:
                await admitted.body()
                context.ttft_ms, context.status = context.elapsed_ms(), 200
        except APIError as error:
            return error
        except asyncio.CancelledError:
            if not guard.was_interrupted():
                raise
            return interrupt_error(guard.reason)
        finally:
            services.running_calls.close(guard)
        return None


async def _silence(uploads: Uploads) -> UploadedFile:
    """Returns a recording of a second of silence."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(8000)
        recording.writeframes(bytes(16000))
    data, stored = buffer.getvalue(), uploads.create()
    await uploads.append(stored, data)
    return UploadedFile("file", "test.wav", "audio/wav", len(data), data[:4096], stored)
