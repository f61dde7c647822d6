"""Cohere's embeddings over answers of other providers."""

import base64
import json
import struct

import pytest

from llm_proxy.dialects.cohere_embed import EMBED_V1, EMBED_V2, CohereEmbedDialect
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ResponseMeta
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.errors import BadRequest, ProviderFailed

PACKED = base64.b64encode(struct.pack("<2f", 0.5, -1)).decode()
BODY = json.dumps({"model": "m", "texts": ["a"], "input_type": "x"}).encode()


def rendered(dialect: CohereEmbedDialect, *vectors: object) -> bytes:
    """The answer for a provider's vectors."""
    call = dialect.parse("embeddings", BODY, NO_OPTIONS, ModelIndex(), BodyLimits())
    reply = json.dumps({"data": [{"embedding": one} for one in vectors], "usage": {"prompt_tokens": 3}})
    return dialect.render(call, reply.encode(), ResponseMeta())


@pytest.mark.parametrize("vector", [[0.5, -1], PACKED])
def test_vectors_are_numbers_however_the_provider_writes_them(vector: object) -> None:
    """As a list, or packed in base64; without a type in version 1."""
    assert json.loads(rendered(EMBED_V2, vector))["embeddings"] == {"float": [[0.5, -1]]}
    assert json.loads(rendered(EMBED_V1, vector))["embeddings"] == [[0.5, -1]]


def test_an_empty_text_is_named_by_its_own_field() -> None:
    """Not by that of OpenAI's embeddings, which it becomes."""
    body = json.dumps({"model": "m", "texts": ["a", ""]}).encode()
    with pytest.raises(BadRequest) as caught:
        EMBED_V2.parse("embeddings", body, NO_OPTIONS, ModelIndex(), BodyLimits())
    assert caught.value.param == "texts[1]"


@pytest.mark.parametrize("vectors", [[], ["%%"], ["YWI=YQ"], [["a"]], [[None]]])
def test_an_answer_without_vectors_is_the_provider_s_error(vectors: list[object]) -> None:
    """Never an empty answer."""
    with pytest.raises(ProviderFailed):
        rendered(EMBED_V2, *vectors)
