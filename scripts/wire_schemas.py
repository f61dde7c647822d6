"""Prints `llm_proxy/edge/schemas/wire.json`: the schemas of requests and answers of every call of a model.

OpenAI's and Anthropic's come from the types of their SDKs, as locked; the others from `wire_types.py`. The
SDKs' types of files are left out: what a form takes stands in `edge/openapi_page.py`.
"""

import json
from typing import Any, get_type_hints

import wire_types as own
from anthropic import types as anthropic
from anthropic.types import message_create_params
from openai import types as openai
from openai.types import audio, chat, responses
from openai.types.audio import speech_create_params, transcription_create_params, translation_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params
from pydantic import TypeAdapter
from typing_extensions import TypedDict

Wire = tuple[Any, Any, Any]
WIRES: dict[str, Wire] = {
    "openai chat.completions": (
        chat_params.CompletionCreateParamsNonStreaming,
        chat.ChatCompletion,
        chat.ChatCompletionChunk,
    ),
    "openai completions": (
        openai.completion_create_params.CompletionCreateParamsNonStreaming,
        openai.Completion,
        openai.Completion,
    ),
    "openai embeddings": (openai.EmbeddingCreateParams, openai.CreateEmbeddingResponse, None),
    "openai moderations": (openai.ModerationCreateParams, openai.ModerationCreateResponse, None),
    "openai images.generations": (
        openai.image_generate_params.ImageGenerateParamsNonStreaming,
        openai.ImagesResponse,
        openai.ImageGenStreamEvent,
    ),
    "openai images.edits": (
        openai.image_edit_params.ImageEditParamsNonStreaming,
        openai.ImagesResponse,
        openai.ImageEditStreamEvent,
    ),
    "openai audio.speech": (speech_create_params.SpeechCreateParams, None, None),
    "openai audio.transcriptions": (
        transcription_create_params.TranscriptionCreateParamsNonStreaming,
        audio.TranscriptionCreateResponse,
        audio.TranscriptionStreamEvent,
    ),
    "openai audio.translations": (
        translation_create_params.TranslationCreateParams,
        audio.TranslationCreateResponse,
        None,
    ),
    "responses responses": (
        response_create_params.ResponseCreateParamsNonStreaming,
        responses.Response,
        responses.ResponseStreamEvent,
    ),
    "messages messages": (
        message_create_params.MessageCreateParamsNonStreaming,
        anthropic.Message,
        anthropic.RawMessageStreamEvent,
    ),
    "gemini generate_content": (
        own.GenerateContentRequest,
        own.GenerateContentResponse,
        own.GenerateContentResponse,
    ),
    "gemini embeddings": (own.EmbedContentRequest, own.EmbedContentResponse, None),
    "gemini embeddings batch": (own.BatchEmbedContentsRequest, own.BatchEmbedContentsResponse, None),
    "cohere rerank": (own.RerankRequest, own.RerankResponse, None),
    "cohere embeddings": (own.EmbedRequest, own.EmbedResponse, None),
    "internal chat.completions": (own.InternalRequest, own.InternalResponse, own.InternalEvent),
    "generate chat.completions": (own.GenerateRequest, own.GenerateResponse, own.GenerateEvent),
}


def without_files(request: Any) -> Any:  # noqa: ANN401 -- a TypedDict
    """Returns a request's type without the fields that hold files."""
    hints = get_type_hints(request, include_extras=True)
    kept = {name: hint for name, hint in hints.items() if "IO[bytes]" not in str(hint)}
    if "stream" in kept:
        kept["stream"] = bool | None
    return TypedDict(request.__name__, kept, total=request.__total__)


def plain(schema: Any) -> Any:  # noqa: ANN401 -- JSON
    """Returns a schema without titles and defaults of nothing, which say nothing."""
    if isinstance(schema, list):
        return [plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        name: plain(value)
        for name, value in schema.items()
        if not (name == "title" and isinstance(value, str)) and not (name == "default" and value is None)
    }
    if "description" in kept and isinstance(kept["description"], str):
        kept["description"] = kept["description"].split("\n\n")[0].replace("\n", " ").strip()
    return kept


def name_of(wire: str, role: str) -> str:
    """Returns the name of a schema: `OpenaiChatCompletionsRequest`."""
    return "".join(word.title().replace("_", "") for word in wire.replace(".", " ").split()) + role


def schemas_of(kind: Any, namespace: str) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401 -- a type
    """Returns the schema of a type, and those that it refers to, by name."""
    made = TypeAdapter(kind).json_schema(ref_template=f"#/components/schemas/{namespace}_{{model}}")
    inside = {f"{namespace}_{name}": plain(schema) for name, schema in made.pop("$defs", {}).items()}
    return plain(made), inside


def document() -> dict[str, Any]:
    """Returns the schemas by name, and which an endpoint of a dialect has.

    Types of one SDK share their names; where two of one name differ, the later has a name of its own.
    """
    schemas: dict[str, Any] = {}
    roles: dict[str, dict[str, str]] = {}
    for wire, types in WIRES.items():
        for role, kind in zip(("Request", "Response", "Event"), types, strict=True):
            if kind is None:
                continue
            name = name_of(wire, role)
            typed = without_files(kind) if role == "Request" else kind
            made, inside = schemas_of(typed, wire.partition(" ")[0].title())
            if any(schemas.get(inner, schema) != schema for inner, schema in inside.items()):
                made, inside = schemas_of(typed, name)
            schemas |= inside | {name: made}
            roles.setdefault(wire, {})[role.lower()] = name
    return {"roles": roles, "schemas": schemas}


def main() -> None:
    """Prints the document, a schema a line."""
    made = document()
    lines = (
        f"{json.dumps(name)}:{json.dumps(schema, separators=(',', ':'), sort_keys=True)}"
        for name, schema in sorted(made["schemas"].items())
    )
    print(
        f'{{"roles":{json.dumps(made["roles"], sort_keys=True)},\n"schemas":{{\n' + ",\n".join(lines) + "}}"
    )


if __name__ == "__main__":
    main()
