"""The dialect of `:embedContent` and `:batchEmbedContents`: texts of Google's contents as embeddings.

Invariants: a content is one text, its parts joined; a batch asks for one model, size and task. Where a
provider is Google its task goes with it, elsewhere it has no effect. Source: https://ai.google.dev/api/embeddings.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ResponseMeta
from llm_proxy.dialects.gemini.envelope import GeminiEnvelope
from llm_proxy.dialects.gemini.fields import Message, filled, invalid, list_of, struct, text, whole
from llm_proxy.dialects.gemini.models import PREFIX
from llm_proxy.dialects.gemini.schema import content
from llm_proxy.dialects.request import ParseContext, build_call, parse_object
from llm_proxy.dialects.request.kept_at_google import refuse_kept_file
from llm_proxy.dialects.request.native_call import resolve_group
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.dialects.translation.carried import carried_for
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import BadRequest, ProviderFailed
from llm_proxy.identity import NO_ATTRIBUTION
from llm_proxy.json_access import Json, as_object, as_objects, is_array

MAX_BATCH = 2048
_one = Message(
    {
        "model": text,
        "content": content,
        "taskType": filled,
        "title": text,
        "outputDimensionality": whole(1),
        "embedContentConfig": struct,
    },
    "content",
)
_batch = Message({"model": text, "requests": list_of(_one, 1, MAX_BATCH)}, "requests")
_ALIKE = ("taskType", "title", "outputDimensionality")


@dataclass(frozen=True, slots=True)
class GeminiEmbeddingsDialect(GeminiEnvelope):
    """Google's embeddings.

    Attributes:
        is_batch: It is the dialect of `:batchEmbedContents`.
    """

    is_batch: bool = False

    def parse(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Call:
        """Returns the call of a body; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse_object(body, limits.max_depth)
        context = ParseContext(self.name, endpoint, len(body))
        if self.is_batch:
            requests = _batch(parsed, "")["requests"]
            texts = [_text(one, f"requests[{at}].") for at, one in enumerate(requests)]
            _refuse_other_model(requests, options.model)
            _refuse_unlike(requests)
            wanted = requests[0]
        else:
            wanted = _one(parsed, "")
            texts = [_text(wanted, "")]
        model, group = resolve_group({}, context, options, models)
        translated: Json = {"model": model, "input": texts}
        if "outputDimensionality" in wanted:
            translated["dimensions"] = wanted["outputDimensionality"]
        carried = carried_for(group, models)
        if carried.thought_signatures:  # a provider is Google: there LiteLLM takes such a text for a file
            for at, one in enumerate(texts):
                refuse_kept_file(one, f"requests[{at}].content" if self.is_batch else "content")
        if carried.safety_settings:  # every one is
            task = {"task_type": wanted.get("taskType"), "title": wanted.get("title")}
            translated |= {name: value for name, value in task.items() if value}
        return build_call(translated, context, options, models, limits, NO_ATTRIBUTION)

    def render(self, call: Call, reply: bytes, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- headers name the provider
        """Returns Google's vectors; raises `ProviderFailed` when the answer is none."""
        try:
            answer = as_object(orjson.loads(reply))
        except orjson.JSONDecodeError:
            answer = {}
        found = sorted(as_objects(answer.get("data")), key=_index)
        vectors = [{"values": one["embedding"]} for one in found if is_array(one.get("embedding"))]
        if len(vectors) != len(call.body["input"]):
            raise ProviderFailed("The provider's answer could not be read.")
        document: Json = {"embeddings": vectors} if self.is_batch else {"embedding": vectors[0]}
        tokens = as_object(answer.get("usage")).get("prompt_tokens")
        if type(tokens) is int:
            document["usageMetadata"] = {"promptTokenCount": tokens, "totalTokenCount": tokens}
        return orjson.dumps(document)

    def open_stream(self, call: Call) -> None:
        """None: vectors do not stream."""


def _index(one: Json) -> int:
    index: Any = one.get("index")
    return index if type(index) is int else 0


def _not_embedded(path: str, reason: str) -> BadRequest:
    message = f"'{path}': {reason} Calls of this path are sent as OpenAI's embeddings."
    return BadRequest(message, param=path, code="unsupported_parameter")


def _text(request: Json, path: str) -> str:
    if request.get("embedContentConfig"):
        raise _not_embedded(f"{path}embedContentConfig", "this setting is not carried.")
    texts: list[str] = []
    for at, part in enumerate(request["content"].get("parts", ())):
        if "text" not in part:
            raise _not_embedded(f"{path}content.parts[{at}]", "only texts are embedded.")
        texts.append(part["text"])
    if not "".join(texts):
        raise invalid(f"{path}content", "must have a text.", "empty_string")
    return "\n".join(texts)


def _refuse_other_model(requests: list[Json], in_path: str | None) -> None:
    for at, one in enumerate(requests):
        named = one.get("model")
        if named and in_path is not None and named.removeprefix(PREFIX) != in_path.removeprefix(PREFIX):
            raise invalid(f"requests[{at}].model", "must be the model that the path names.")


def _refuse_unlike(requests: list[Json]) -> None:
    for at, one in enumerate(requests):
        for name in _ALIKE:
            if one.get(name) != requests[0].get(name):
                raise invalid(f"requests[{at}].{name}", "must be the same in each request of a batch.")


EMBED_CONTENT = GeminiEmbeddingsDialect()
BATCH_EMBED_CONTENTS = GeminiEmbeddingsDialect(is_batch=True)
