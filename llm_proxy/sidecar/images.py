"""Answers of image models: as their provider sent them, or LiteLLM's without what it invents; or as events.

Pure. Invariants: an answer in OpenAI's format passes as bytes, its pictures unparsed; of any other provider's
only what it states is sent; an answer without a picture is a failure.
Source: https://platform.openai.com/docs/api-reference/images.
"""

import json
import re
from dataclasses import dataclass

from llm_proxy.endpoints import Endpoint
from llm_proxy.json_access import Json, as_list, as_object, is_object, read_object
from llm_proxy.media_frames import ERROR, LAST_EVENTS, event_name, parse_event, split_frames
from llm_proxy.sidecar.event_channel import EventChannel
from llm_proxy.sidecar.image_edits import SentEdit
from llm_proxy.sidecar.provider_errors import StatedFailure, find_failure
from llm_proxy.token_details import token_count

PATHS = ("/images/generations", "/images/edits")
"""Ends of the paths of OpenAI's operations, at any provider that speaks them."""
OPERATIONS: dict[Endpoint, str] = {"images.generations": "image_generation", "images.edits": "image_edit"}
"""Endpoint -> the first part of its events' names."""
FORMATS = {"iVBOR": "png", "/9j/": "jpeg", "UklGR": "webp", "R0lGO": "gif"}
"""How base64 of a picture begins -> its format."""
NO_PICTURE = StatedFailure(502, {"error": {"message": "the provider's answer has no picture"}})
REJECTED = StatedFailure(
    400,
    {
        "error": {
            "message": "The provider's content policy refused this picture.",
            "type": "image_generation_user_error",
            "code": "content_policy_violation",
        }
    },
)
SHOWN = ("background", "output_format", "quality", "size")
REJECTION = re.compile(
    rb'"(?:blockReason|raiFilteredReason)"|"finishReason"\s*:\s*'
    rb'"(?:IMAGE_)?(?:SAFETY|PROHIBITED_CONTENT|BLOCKLIST|SPII|RECITATION)"'
)
"""What Google says of a picture that it does not show."""


@dataclass(slots=True)
class ImageCall:
    """One call of an image operation.

    Attributes:
        events: Where its events go; None for a call that is not streamed.
        answer: The provider's whole answer in OpenAI's format, as it was sent; None in any other format.
        edit: What is to be edited, and how; None of a generation.
    """

    events: EventChannel | None = None
    answer: bytes | None = None
    edit: SentEdit | None = None


def find_stated_failure(raw: bytes) -> StatedFailure | None:
    """Return the failure that an answer in any format states; None for what is no JSON, too."""
    return find_failure(read_object(raw, strict=False))


def find_failure_in_answer(shell: bytes) -> StatedFailure | None:
    """Return the failure that a whole answer in OpenAI's format states, or is, its pictures left out."""
    answer = read_object(shell, strict=False)
    failure = find_failure(answer)
    if failure is None and not as_list(answer.get("data")):
        return NO_PICTURE
    return failure


def truncated(cause: str = "") -> StatedFailure:
    """Return the failure of a stream that broke off."""
    message = f"the provider's stream broke off: {cause or 'no last event'}"
    return StatedFailure(502, {"error": {"message": message}})


class NotAnEvent(ValueError):  # noqa: N818 -- named for the state
    """A frame has no object."""


class StreamSummary:
    """What the events of one stream state, as a whole answer without pictures.

    Attributes:
        failure: The failure that an event states.
        fails_at_once: Whether that was the first event.
    """

    def __init__(self) -> None:
        self._last: Json = {}
        self._events = self._pictures = 0
        self._usage: Json = {}
        self.failure: StatedFailure | None = None
        self.fails_at_once = False

    def read(self, frames: bytes) -> None:
        """Note what complete frames state; raises `NotAnEvent`."""
        for frame in split_frames(frames):
            if frame.startswith(b":") or b"[DONE]" in frame[:16]:
                continue
            name = event_name(frame)
            if name is None:
                raise NotAnEvent
            if name == ERROR and self.failure is None:
                self.failure = find_failure(parse_event(frame), error_event=True)
                self.fails_at_once = not self._events
            elif name in LAST_EVENTS:
                self._last = parse_event(frame)
                self._pictures += 1
                _add(self._usage, as_object(self._last.get("usage")))
            self._events += 1

    def answer(self) -> bytes | None:
        """Return the answer as JSON; None if the stream had no last event."""
        if not self._pictures:
            return None
        shown = {name: self._last[name] for name in SHOWN if name in self._last}
        answer = {"created": self._last.get("created_at") or 0, **shown}
        answer["data"] = [{"b64_json": ""} for _ in range(self._pictures)]
        if self._usage:
            answer["usage"] = self._usage
        return json.dumps(answer).encode()


def _add(total: Json, usage: Json) -> None:
    """Add the tokens of one picture to those of the others."""
    for name, value in usage.items():
        if is_object(value):
            _add(total.setdefault(name, {}), value)
        elif token_count(value) is not None:
            total[name] = (token_count(total.get(name)) or 0) + value


def translated_answer(answer: Json) -> Json:
    """Return LiteLLM's answer of another provider, without what that did not state."""
    kept = _stated(answer)
    usage = as_object(kept.get("usage"))
    if not usage.get("input_tokens") and not usage.get("output_tokens"):
        kept.pop("usage", None)
    kept["data"] = [_stated(as_object(one)) for one in as_list(answer.get("data"))]
    return kept


def _stated(values: Json) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def events_of(answer: Json, endpoint: Endpoint) -> bytes:
    """Return the events of a whole answer: one for each picture, the very last with the tokens of all."""
    kind = f"{OPERATIONS[endpoint]}.completed"
    pictures = [as_object(one) for one in as_list(answer.get("data"))]
    events: list[bytes] = []
    for picture in pictures:
        encoded = str(picture.get("b64_json") or "")
        found = next((made for begin, made in FORMATS.items() if encoded.startswith(begin)), "png")
        shown = {"background": "auto", "output_format": found, "quality": "auto", "size": "auto"}
        shown |= {name: answer[name] for name in SHOWN if name in answer}
        event: Json = {"type": kind, **picture, "created_at": answer.get("created") or 0, **shown}
        if "usage" in answer and len(events) == len(pictures) - 1:
            event["usage"] = answer["usage"]
        events.append(f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode())
    return b"".join(events)
