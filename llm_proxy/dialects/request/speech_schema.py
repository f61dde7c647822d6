"""The fields of speech, each with its validator, in the order they are sent.

Invariant: voices, formats and speeds are their provider's to judge; the text's length is bounded.
Source: https://platform.openai.com/docs/api-reference/audio/createSpeech.
"""

from llm_proxy.dialects.request.validators import Validator, either, number, object_with, one_of, string

MAX_CHARACTERS = 100_000
"""OpenAI takes 4096; others take more."""
_text = string()
_name = string(max_length=256, min_length=1)

SPEECH_FIELDS: dict[str, Validator] = {
    "model": _name,
    "input": string(max_length=MAX_CHARACTERS, min_length=1),
    "voice": either("a string or an object", string=_name, object=object_with(id=_name)),
    "instructions": _text,
    "response_format": string(max_length=32, min_length=1),
    "speed": number(0, 100),
    "stream_format": one_of("audio", "sse"),
    "user": _text,
}
