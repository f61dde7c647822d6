"""OpenAI's wire of audio: transcriptions and translations, in every format, whole and streamed.

Source: https://platform.openai.com/docs/api-reference/audio. Whisper is billed by time, the others by token.
"""

import json

from scripted.script import Json, Script

SECONDS = 9


def _is_whisper(body: Json) -> bool:
    return "whisper" in str(body.get("model"))


def _usage(script: Script, body: Json) -> Json:
    if _is_whisper(body):
        return {"type": "duration", "seconds": SECONDS}
    return {
        "type": "tokens",
        "input_tokens": script.prompt_tokens,
        "input_token_details": {"text_tokens": 3, "audio_tokens": script.prompt_tokens - 3},
        "output_tokens": script.completion_tokens,
        "total_tokens": script.prompt_tokens + script.completion_tokens,
    }


def _cues(script: Script, point: str) -> list[str]:
    return [
        f"00:00:0{at}{point}000 --> 00:00:0{at + 1}{point}000\n{word}\n"
        for at, word in enumerate(script.words())
    ]


def transcript(script: Script, body: Json, _number: int) -> Json | str:
    """The answer in the requested format."""
    text, form = "".join(script.words()), body.get("response_format", "json")
    if form == "text":
        return f"{text}\n"
    if form == "srt":
        return "\n".join(f"{at}\n{cue}" for at, cue in enumerate(_cues(script, ","), 1))
    if form == "vtt":
        return "WEBVTT\n\n" + "\n".join(_cues(script, "."))
    answer: Json = {"text": text, "usage": _usage(script, body), "provider_addition": {"kept": True}}
    if form == "verbose_json":
        answer |= {"task": "transcribe", "language": "english", "duration": SECONDS - 0.5}
        answer["segments"] = [{"id": 0, "start": 0.0, "end": 1.5, "text": text, "tokens": [1], "seek": 0}]
        if "word" in body.get("timestamp_granularities", []):
            answer["words"] = [{"word": text, "start": 0.0, "end": 1.5}]
    if form == "diarized_json":
        answer |= {"task": "transcribe", "duration": SECONDS}
        answer["segments"] = [
            {"type": "transcript.text.segment", "id": "seg_1", "speaker": "A", "text": text}
        ]
    return answer


def frames(script: Script, body: Json, _number: int) -> tuple[list[bytes], list[bytes]]:
    """The events of a stream, unnamed as OpenAI's are."""
    words = script.words()
    deltas = [_frame({"type": "transcript.text.delta", "delta": word}) for word in words]
    done = {"type": "transcript.text.done", "text": "".join(words), "usage": _usage(script, body)}
    return deltas, [_frame(done)]


def streams(body: Json) -> bool:
    """Whether this body is answered with a stream: whisper ignores the field."""
    return body.get("stream") == "true" and not _is_whisper(body)


def _frame(event: Json) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


def deepgram(script: Script, _body: Json, _number: int) -> Json:
    """Deepgram's answer. Source: https://developers.deepgram.com/reference/listen-file."""
    words = [{"word": one.strip(), "start": at, "end": at + 0.5} for at, one in enumerate(script.words())]
    best = {"transcript": "".join(script.words()), "confidence": 0.9, "words": words}
    return {
        "metadata": {"duration": float(SECONDS), "channels": 1},
        "results": {"channels": [{"alternatives": [best]}]},
    }
