"""The dialect of Cohere's `/v1/embed` and `/v2/embed`: native where its models serve, else translated.

Invariants: both ways are calls of embeddings; what a model of another provider cannot do (images, vectors of
integers, a cut at the start) is rejected by name; an answer has the types that were requested, one vector of
each for each input. Source: https://docs.cohere.com/reference/embed, https://docs.cohere.com/v1/reference/embed.
"""

import base64
import struct
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import orjson

from llm_proxy.dialects.call import CacheControl, Call
from llm_proxy.dialects.cohere import CohereDialect
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ResponseMeta
from llm_proxy.dialects.request import ParseContext, build_call, parse_object
from llm_proxy.dialects.request.native_call import resolve_group
from llm_proxy.dialects.request.validators import (
    Validator,
    array_of,
    integer,
    invalid,
    missing,
    object_with,
    one_of,
    string,
)
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.endpoints import COHERE_BODY, Endpoint
from llm_proxy.errors import BadRequest, ProviderFailed
from llm_proxy.json_access import Json, as_list, as_object, as_objects

FLOAT, BASE64 = "float", "base64"
MAX_INPUTS = 2048
_NO_CACHE = CacheControl(no_cache=True, no_store=True)
_INPUTS = ("texts", "images", "inputs")


def _data_uri(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    if not string(min_length=1)(value, path).startswith("data:"):
        raise invalid(path, "expected a data URI; Cohere fetches no links.")
    return value


_CONTENT: dict[str, Validator] = {
    "text": object_with(text_required=string()),
    "image_url": object_with(image_url_required=object_with(url_required=_data_uri)),
}


def _content(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    kind: Any = as_object(value).get("type")
    if type(kind) is not str or kind not in _CONTENT:
        raise invalid(f"{path}.type", "expected 'text' or 'image_url'.")
    return _CONTENT[kind](value, path)


FIELDS: dict[str, Validator] = {
    "model": string(min_length=1),
    "texts": array_of(string(min_length=1), 1, MAX_INPUTS),
    "images": array_of(_data_uri, 1, MAX_INPUTS),
    "inputs": array_of(object_with(content_required=array_of(_content, 1)), 1, MAX_INPUTS),
    "input_type": string(min_length=1),
    "embedding_types": array_of(one_of(FLOAT, "int8", "uint8", "binary", "ubinary", BASE64), 1),
    "truncate": one_of("NONE", "START", "END", "LEFT", "RIGHT"),
    "output_dimension": integer(1),
    "max_tokens": integer(1),
    "priority": integer(),
}


class EmbedContext(NamedTuple):
    """What an answer needs of its request.

    Attributes:
        texts: The texts, as they came.
        types: The types of vectors that were requested; None where the request named none.
        is_native: The answer is Cohere's own.
    """

    texts: list[str] | None
    types: tuple[str, ...] | None
    is_native: bool


@dataclass(frozen=True, slots=True)
class CohereEmbedDialect(CohereDialect):
    """Cohere's embeddings.

    Attributes:
        version: Of Cohere's API: 1 has vectors without a type where none is requested.
    """

    version: Literal[1, 2] = 2

    def parse(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Call:
        """Returns the call of a body; raises `BadRequest` or `ModelNotFound`."""
        parsed = _checked(parse_object(body, limits.max_depth))
        context = ParseContext(self.name, endpoint, len(body))
        model, group = resolve_group(parsed, context, options, models)
        is_native = models.speaks_natively(models.resolved(group), "cohere_embed")
        named = {"model": model, **{name: parsed[name] for name in parsed.keys() - FIELDS.keys()}}
        embedded = {"input": _shown_texts(parsed)} if is_native else _translated(parsed)
        call = build_call(named | embedded, context, options, models, limits)
        kept = EmbedContext(parsed.get("texts"), _types(parsed), is_native)
        if is_native:
            images = sum(map(len, _images(parsed)))
            own = {name: value for name, value in parsed.items() if name != "model"}
            own.setdefault("embedding_types", [FLOAT])
            own.setdefault("input_type", "search_document")
            shown = {name: call.body[name] for name in ("model", "input")}
            call = call._replace(
                body={**shown, COHERE_BODY: own}, cache=_NO_CACHE, prompt_bytes=len(body) - images
            )
        return call._replace(context=kept)

    def render(self, call: Call, reply: bytes, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- headers name the model
        """Returns the answer in this version's form."""
        kept = call.context
        assert isinstance(kept, EmbedContext)  # noqa: S101 -- `parse` made it
        found = as_object(orjson.loads(reply))
        if not kept.is_native:
            found = _answer(found, kept)
        found.pop("usage", None)
        named = {"response_type": "embeddings_by_type"}
        if self.version == 1:
            about = as_object(found.get("meta"))
            found["meta"] = about | {"api_version": {**as_object(about.get("api_version")), "version": "1"}}
            if kept.types is None:
                named = {"response_type": "embeddings_floats"}
                found["embeddings"] = as_object(found.get("embeddings")).get(FLOAT)
                found["texts"] = found.get("texts") or kept.texts or []
        return orjson.dumps(found | named)


def _checked(parsed: Json) -> Json:
    """Returns the body without what is null; raises `BadRequest` naming the field at fault."""
    body = {name: value for name, value in parsed.items() if value is not None}
    for name, check in FIELDS.items():
        if name in body:
            body[name] = check(body[name], name)
    given = [name for name in _INPUTS if name in body]
    if not given:
        raise missing("texts")
    if len(given) > 1:
        raise invalid(given[1], f"only one of {', '.join(_INPUTS)} may be given.")
    return body


def _types(body: Json) -> tuple[str, ...] | None:
    named = body.get("embedding_types")
    return None if named is None else tuple(dict.fromkeys(named))


def _images(body: Json) -> list[str]:
    parts = [part for one in body.get("inputs", ()) for part in one["content"] if part["type"] != "text"]
    return [*body.get("images", ()), *(part["image_url"]["url"] for part in parts)]


def _shown_texts(body: Json) -> list[str]:
    """The text of each input, for the sidecar's counts; a word for one that is an image."""
    if "texts" in body:
        return list(body["texts"])
    if "images" in body:
        return ["image" for _ in body["images"]]
    joined = [[part["text"] for part in one["content"] if part["type"] == "text"] for one in body["inputs"]]
    return ["\n".join(one) or "image" for one in joined]


def _translated(body: Json) -> Json:
    """Returns a body of OpenAI's embeddings; raises `BadRequest` for what other providers cannot do."""
    if "images" in body:
        raise _unsupported("images", "embeddings of images")
    for at, one in enumerate(body.get("inputs", ())):
        for part_at, part in enumerate(one["content"]):
            if part["type"] != "text":
                raise _unsupported(f"inputs[{at}].content[{part_at}]", "embeddings of images")
    for at, kind in enumerate(body.get("embedding_types", ())):
        if kind not in (FLOAT, BASE64):
            raise _unsupported(f"embedding_types[{at}]", f"vectors of type '{kind}'")
    if body.get("truncate") in ("START", "LEFT"):
        raise _unsupported("truncate", "truncation at the start")
    if "max_tokens" in body:
        raise _unsupported("max_tokens", "limit on the tokens of an input")
    found: Json = {"input": _shown_texts(body)}
    return found | ({"dimensions": body["output_dimension"]} if "output_dimension" in body else {})


def _unsupported(path: str, what: str) -> BadRequest:
    message = f"'{path}': this model has no {what}; use a model of Cohere's."
    return BadRequest(message, param=path, code="unsupported_value")


def _answer(reply: Json, kept: EmbedContext) -> Json:
    """Returns an answer of OpenAI's embeddings as Cohere's; raises `ProviderFailed` when it is none."""
    vectors = [_floats(one.get("embedding")) for one in as_objects(reply.get("data"))]
    if not vectors:
        raise ProviderFailed("The provider's answer could not be read.")
    by_type: dict[str, list[Any]] = {FLOAT: vectors, BASE64: []}
    types = kept.types or (FLOAT,)
    if BASE64 in types:
        by_type[BASE64] = [base64.b64encode(struct.pack(f"<{len(one)}f", *one)).decode() for one in vectors]
    tokens = as_object(reply.get("usage")).get("prompt_tokens")
    return {
        "id": str(uuid4()),
        "embeddings": {kind: by_type[kind] for kind in types},
        **({} if kept.texts is None else {"texts": kept.texts}),
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}},
    }


def _floats(vector: object) -> list[float]:
    """Returns a vector's numbers, of text in base64 too; raises `ProviderFailed` for anything else."""
    try:
        if isinstance(vector, str):
            raw = base64.b64decode(vector, validate=True)
            return list(struct.unpack(f"<{len(raw) // 4}f", raw))
        return [float(one) for one in as_list(vector)]
    except (ValueError, TypeError, struct.error):
        raise ProviderFailed("The provider's answer could not be read.") from None


EMBED_V1, EMBED_V2 = CohereEmbedDialect(version=1), CohereEmbedDialect()
