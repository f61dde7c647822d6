"""Each input gets its own vector, in any order of the answer, from the provider and from the cache."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from sidecars import Answer, Json, Sidecar

GROUPS = ("embed", "hosted_vllm")


def vectors(*placed: tuple[object, object], **more: Any) -> Json:
    """Return a provider's answer with these indices and vectors."""
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in placed]
    return {
        "object": "list",
        "data": data,
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    } | more


async def embedded(sidecar: Sidecar, group: str, *texts: str) -> Answer:
    """Return the answer for these texts; LiteLLM caches it."""
    return await sidecar.post("/v1/embeddings", {"model": group, "input": list(texts)})


def texts_for(body: Json | str, inputs: int) -> list[str]:
    """Return texts that are not cached; the first tells the provider what to answer."""
    text = body if isinstance(body, str) else json.dumps(body)
    marks = [str(uuid4()) for _ in range(inputs)]
    return [f"{marks[0]} {json.dumps({'do': 'raw', 'raw': [text]})}", *marks[1:]]


def entries(answer: Answer) -> list[tuple[int, Any]]:
    """Return index and vector of each entry."""
    assert answer.status == 200, answer.text
    return [(one["index"], one["embedding"]) for one in answer.json["data"]]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    "body",
    [
        vectors((0, [0.0]), (1, [0.5]), (2, [1.0])),
        vectors((2, [1.0]), (0, [0.0]), (1, [0.5])),
        vectors((1, [0.5]), (0, [0.0]), (2, [1.0]), usage=None),
        vectors((None, [0.0]), (None, [0.5]), (None, [1.0])),
        vectors((2.0, [1.0]), (1.0, [0.5]), (0.0, [0.0])),
    ],
)
async def test_vectors_are_matched_by_index(sidecar: Sidecar, group: str, body: Json) -> None:
    """In the first and the second call, in one batch and one by one."""
    texts = texts_for(body, 3)
    expected = [(0, [0.0]), (1, [0.5]), (2, [1.0])]
    assert entries(await embedded(sidecar, group, *texts)) == expected
    await asyncio.sleep(0.3)
    assert entries(await embedded(sidecar, group, *texts)) == expected
    assert entries(await embedded(sidecar, group, texts[2])) == [(0, [1.0])]
    assert entries(await embedded(sidecar, group, texts[1], texts[0])) == [(0, [0.5]), (1, [0.0])]
    assert len(await sidecar.provider.calls(texts[0].split()[0])) == 1


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    "body",
    [
        vectors((0, [0.0]), (0, [0.5]), (1, [1.0])),
        vectors((0, [0.0]), (1, [0.5]), (3, [1.0])),
        vectors((1, [0.0]), (2, [0.5]), (3, [1.0])),
        vectors((1, [0.0]), (None, [0.5]), (2, [1.0])),
        vectors((0, [0.0]), ("1", [0.5]), (2, [1.0])),
        vectors((0, [0.0]), (1, None), (2, [1.0])),
        vectors((0, [0.0]), (1, []), (2, [1.0])),
        vectors((0, [0.0]), (1, [None]), (2, [1.0])),
        vectors((0, [0.0]), (1, [float("nan")]), (2, [1.0])),
        vectors((0, [0.0])),
        vectors((0, [0.0]), (1, [0.5]), (2, [1.0]), (3, [1.0])),
        vectors(),
        vectors(data=None),
        '{"object": "list", "data": [{"object": "embedding", "index": 0}], "usage": {"prompt_tokens": 1}}',
        '"ok"',
    ],
)
async def test_an_answer_without_one_vector_for_each_input_is_an_error(
    sidecar: Sidecar, group: str, body: Json | str
) -> None:
    """Missing, surplus, duplicate, null or no numbers: the provider's error, each time."""
    texts = texts_for(body, 3)
    for pause_s in (0, 0.3):
        await asyncio.sleep(pause_s)
        answer = await embedded(sidecar, group, *texts)
        assert answer.status >= 500, answer.text
        assert answer.headers["x-llmp-provider-status"] == "502"


async def test_an_answer_of_ollama_without_one_vector_for_each_input_is_an_error(sidecar: Sidecar) -> None:
    """Ollama's vectors have no index."""
    body = {"model": "m", "embeddings": [[0.5]], "prompt_eval_count": 1}
    answer = await embedded(sidecar, "embed-ollama", *texts_for(body, 2))
    assert answer.status >= 500, answer.text


async def test_a_list_of_tokens_is_one_input(sidecar: Sidecar) -> None:
    """LiteLLM would cache the vector of token 5 as that of the text "5"."""
    for inputs in ([5], [5, 7], "5", [5], [[5], [5, 7]]):
        answer = await sidecar.post("/v1/embeddings", {"model": "embed", "input": inputs})
        await asyncio.sleep(0.3)
        count = 2 if inputs == [[5], [5, 7]] else 1
        assert [at for at, _ in entries(answer)] == list(range(count))
        assert "x-litellm-cache-key" not in answer.headers
