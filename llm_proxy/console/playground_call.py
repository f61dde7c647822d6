"""A form of the playground -> the request that it makes: its path, its JSON body or its file.

Invariants: pure; every path is one of `PATHS`; what the field for more JSON says wins over the other fields.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import orjson

from llm_proxy.console.forms import parse_json
from llm_proxy.console.playground_turns import ConversationTurn
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json, as_object
from llm_proxy.path_names import api_segment

DEFAULT_MAX_TOKENS = 512
MESSAGES_PATH = "/v1/messages"
GEMINI_PATH = "/v1beta/models/{model}:generateContent"
GEMINI_PREFIX = "/v1beta/models/"
"""Of the path of a call: the model stands in it."""
FILE_PATHS = {
    "/v1/audio/transcriptions": "file",
    "/v1/audio/translations": "file",
    "/v1/images/edits": "image",
}
"""Paths that take a form with a file, and the file's field."""


@dataclass(frozen=True, slots=True)
class CallFile:
    """A file that a call sends."""

    name: str
    content_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PlaygroundCall:
    """A request to the gateway.

    Attributes:
        file: The file of a multipart form; None for a JSON body.
    """

    path: str
    body: Json
    file: CallFile | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether a stream is requested."""
        return self.body.get("stream") is True or self.path.endswith("?alt=sse")

    @property
    def file_field(self) -> str:
        """The form's field of the file."""
        return FILE_PATHS[self.path]

    def form_fields(self) -> dict[str, str]:
        """Returns the body as fields of a multipart form."""
        return {
            name: value if isinstance(value, str) else orjson.dumps(value).decode()
            for name, value in self.body.items()
        }


@dataclass(frozen=True, slots=True)
class PlaygroundForm:
    """The fields of the form, as text."""

    path: str
    model: str
    system: str = ""
    prompt: str = ""
    max_tokens: str = ""
    temperature: str = ""
    tools: str = ""
    more: str = ""
    stream: bool = False
    file: CallFile | None = field(default=None, repr=False)
    turns: tuple[ConversationTurn, ...] = ()

    def with_answer(self, answer: str) -> "PlaygroundForm":
        """Returns the form for the next message, after an answer; the same where none has come."""
        if self.path not in CONVERSATIONS or not answer:
            return self
        turns = (*self.turns, ConversationTurn("user", self.prompt), ConversationTurn("assistant", answer))
        return replace(self, turns=turns, prompt="", file=None)

    def earlier(self) -> list[Json]:
        """Returns the messages so far, as all dialects but Google's have them."""
        return [{"role": one.role, "content": one.text} for one in self.turns]

    def call(self) -> PlaygroundCall:
        """Returns the request; raises `BadRequest` with the field at fault."""
        build = PATHS.get(self.path)
        if build is None:
            raise BadRequest("There is no such endpoint.", param="path")
        if self.path == GEMINI_PATH:
            return PlaygroundCall(self._gemini_path(), build(self) | self._more())
        body = {"model": self.model} | build(self) | self._stream() | self._more()
        if self.path in FILE_PATHS and self.file is None:
            raise BadRequest("This endpoint needs a file.", param="file")
        return PlaygroundCall(self.path, body, self.file if self.path in FILE_PATHS else None)

    def options(self, max_tokens: str = "max_tokens") -> Json:
        """Returns what samples an answer; `max_tokens` is the endpoint's name of it."""
        found: Json = {}
        if self.max_tokens:
            found[max_tokens] = _whole_number(self.max_tokens)
        if self.temperature:
            found["temperature"] = _number(self.temperature)
        if self.tools:
            found["tools"] = parse_json(self.tools, "tools")
            if not isinstance(found["tools"], list):
                raise BadRequest("Tools must be a JSON array.", param="tools")
        return found

    def image_url(self) -> str | None:
        """Returns the file as a data URL; None without a file."""
        if self.file is None:
            return None
        return f"data:{self.file.content_type};base64,{base64.b64encode(self.file.data).decode()}"

    def _gemini_path(self) -> str:
        operation = "streamGenerateContent?alt=sse" if self.stream else "generateContent"
        return f"{GEMINI_PREFIX}{api_segment(self.model)}:{operation}"

    def _stream(self) -> Json:
        return {"stream": True} if self.stream and self.path in STREAMED else {}

    def _more(self) -> Json:
        if not self.more.strip():
            return {}
        found = parse_json(self.more, "more")
        if not isinstance(found, dict):
            raise BadRequest("The further fields must be a JSON object.", param="more")
        return as_object(found)  # pyright: ignore[reportUnknownArgumentType]


def _chat(form: PlaygroundForm) -> Json:
    system = [{"role": "system", "content": form.system}] if form.system else []
    url, text = form.image_url(), {"type": "text", "text": form.prompt}
    content = form.prompt if url is None else [text, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [*system, *form.earlier(), {"role": "user", "content": content}], **form.options()}


def _messages(form: PlaygroundForm) -> Json:
    system = {"system": form.system} if form.system else {}
    content: object = form.prompt
    if form.file is not None:
        data = base64.b64encode(form.file.data).decode()
        source = {"type": "base64", "media_type": form.file.content_type, "data": data}
        content = [{"type": "image", "source": source}, {"type": "text", "text": form.prompt}]
    messages = [*form.earlier(), {"role": "user", "content": content}]
    return {**system, "messages": messages, "max_tokens": DEFAULT_MAX_TOKENS, **form.options()}


def _responses(form: PlaygroundForm) -> Json:
    system = {"instructions": form.system} if form.system else {}
    url = form.image_url()
    given: object = form.prompt
    if url is not None:
        parts = [{"type": "input_text", "text": form.prompt}, {"type": "input_image", "image_url": url}]
        given = [*form.earlier(), {"role": "user", "content": parts}]
    elif form.turns:
        given = [*form.earlier(), {"role": "user", "content": form.prompt}]
    return {**system, "input": given, **form.options("max_output_tokens")}


def _gemini(form: PlaygroundForm) -> Json:
    options = form.options("maxOutputTokens")
    tools = options.pop("tools", None)
    parts: list[Json] = [{"text": form.prompt}]
    if form.file is not None:
        data = base64.b64encode(form.file.data).decode()
        parts.insert(0, {"inlineData": {"mimeType": form.file.content_type, "data": data}})
    roles = {"user": "user", "assistant": "model"}
    earlier = [{"role": roles[one.role], "parts": [{"text": one.text}]} for one in form.turns]
    body: Json = {"contents": [*earlier, {"role": "user", "parts": parts}]}
    if form.system:
        body["systemInstruction"] = {"parts": [{"text": form.system}]}
    if options:
        body["generationConfig"] = options
    return body if tools is None else body | {"tools": tools}


def _rerank(form: PlaygroundForm) -> Json:
    query, *documents = [line for line in form.prompt.splitlines() if line.strip()] or [""]
    return {"query": query, "documents": documents}


def _speech(form: PlaygroundForm) -> Json:
    return {"input": form.prompt, "voice": "alloy"}


def _transcript(form: PlaygroundForm) -> Json:
    return {"prompt": form.prompt} if form.prompt else {}


PATHS: Mapping[str, Callable[[PlaygroundForm], Json]] = {
    "/v1/chat/completions": _chat,
    "/v1/responses": _responses,
    MESSAGES_PATH: _messages,
    GEMINI_PATH: _gemini,
    "/v1/completions": lambda form: {"prompt": form.prompt, **form.options()},
    "/v1/embeddings": lambda form: {"input": form.prompt},
    "/v1/rerank": _rerank,
    "/v1/moderations": lambda form: {"input": form.prompt},
    "/v1/images/generations": lambda form: {"prompt": form.prompt},
    "/v1/images/edits": lambda form: {"prompt": form.prompt},
    "/v1/audio/speech": _speech,
    "/v1/audio/transcriptions": _transcript,
    "/v1/audio/translations": _transcript,
}
"""By path what makes the body of a form."""
CONVERSATIONS = frozenset({"/v1/chat/completions", "/v1/responses", MESSAGES_PATH, GEMINI_PATH})
"""Paths that take the messages so far."""
STREAMED = frozenset({*PATHS} - {"/v1/embeddings", "/v1/rerank", "/v1/moderations", "/v1/audio/speech"})
"""Paths that take `stream`; speech is streamed anyway."""


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadRequest("This is not a whole number.", param="max_tokens")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadRequest("This is not a number.", param="temperature") from None
