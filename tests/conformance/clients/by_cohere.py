"""Cohere's SDK: reranking and embeddings, first and second version, waiting and not."""

from typing import Any

import cohere
from cohere.core.api_error import ApiError
from report import API_KEY, BASE_URL, calls, expect, once, play, raises, tell

GATEWAY = BASE_URL.removesuffix("/v1")
FIRST, SECOND = (made(api_key=API_KEY, base_url=GATEWAY) for made in (cohere.Client, cohere.ClientV2))
RANK: Any = {"model": "rerank-v3.5", "query": "a", "documents": ["x", "y", "z"]}
EMBED: Any = {"model": "embed-v4.0", "texts": ["a", "b"], "input_type": "search_query"}
NO_RETRIES: Any = {"request_options": {"max_retries": 0}}


def rerank() -> None:
    """Both versions; the first with documents as objects and back."""
    found = SECOND.rerank(**RANK, top_n=2, max_tokens_per_doc=100)
    expect([one.index for one in found.results] == [2, 1], "other order")
    expect(found.meta and found.meta.billed_units and found.meta.billed_units.search_units == 1, "no units")
    expect(calls()[0]["body"]["max_tokens_per_doc"] == 100, "a field was lost")
    older = FIRST.rerank(**RANK, top_n=1, return_documents=True)
    expect(older.results[0].document and older.results[0].document.text == "z", "no document")
    named: Any = [{"title": "x", "text": "one"}, {"title": "y", "text": "two"}]
    ranked = FIRST.rerank(model="rerank-v3.5", query="a", documents=named, rank_fields=["text"])
    expect(len(ranked.results) == 2, "other count")


def embed() -> None:
    """Vectors in each type, of texts and of pictures."""
    found = SECOND.embed(**EMBED, embedding_types=["float", "int8", "base64"], output_dimension=256)
    expect(found.embeddings.float_ and len(found.embeddings.float_[0]) == 256, "other floats")
    expect(found.embeddings.int8 and found.embeddings.base64, "not each type")
    expect(len(SECOND.embed(**EMBED).embeddings.float_ or []) == 2, "no floats by default")
    picture = "data:image/png;base64,iVBORw0KGgo="
    shown = SECOND.embed(model="embed-v4.0", input_type="image", images=[picture], embedding_types=["float"])
    expect(len(shown.embeddings.float_ or []) == 1, "no picture")
    older = FIRST.embed(**EMBED)
    expect(
        older.response_type == "embeddings_floats" and len(older.embeddings) == 2, "not the first version's"
    )
    typed = FIRST.embed(**EMBED, embedding_types=["float", "uint8"])
    expect(typed.response_type == "embeddings_by_type" and typed.embeddings.uint8, "not by type")


def embed_elsewhere() -> None:
    """A model of OpenAI's, in Cohere's shape; more texts than one call takes go in several."""
    fields: Any = {"model": "text-embedding-3-small", "input_type": "search_document"}
    found = SECOND.embed(**fields, texts=["a", "b"], embedding_types=["float"])
    expect(len(found.embeddings.float_ or []) == 2, "other count")
    many = FIRST.embed(**fields, texts=[f"text {at}" for at in range(200)])
    expect(len(many.embeddings) == 200, "other count in batches")


async def waiting() -> None:
    """The asynchronous client."""
    one = cohere.AsyncClientV2(api_key=API_KEY, base_url=GATEWAY)
    expect(len((await one.rerank(**RANK)).results) == 3, "other count")
    expect((await one.embed(**EMBED, embedding_types=["float"])).embeddings.float_, "no floats")


def errors() -> None:
    """The SDK's own classes, with our words."""

    def rank(model: str = "rerank-v3.5", do: str = "ok", one: Any = SECOND) -> object:
        return one.rerank(model=model, query=play(do=do), documents=["x"], **NO_RETRIES)

    raises(cohere.BadRequestError, lambda: rank(do="status-400"))
    raises(cohere.TooManyRequestsError, lambda: rank(do="status-429"))
    failed: Any = raises(ApiError, lambda: rank(do="status-500"))
    expect(failed.status_code == 502, f"other status: {failed.status_code}")
    raises(cohere.NotFoundError, lambda: rank(model="nobody-has-this"))
    other = cohere.ClientV2(api_key="not-ours-0123456789", base_url=GATEWAY)
    refusal: Any = raises(cohere.UnauthorizedError, lambda: rank(one=other))
    expect(refusal.body["message"], "no message")
    raises(cohere.BadRequestError, lambda: SECOND.embed(model="embed-v4.0", input_type="search_query"))


tell(
    "cohere",
    "cohere",
    {
        "rerank": rerank,
        "embed": embed,
        "embed by another provider's model": embed_elsewhere,
        "asynchronous": waiting,
        "errors": errors,
        "no retries on top": once(
            lambda: raises(
                ApiError,
                lambda: SECOND.rerank(
                    model="rerank-v3.5", query=play(do="status-500"), documents=["x"], **NO_RETRIES
                ),
            )
        ),
    },
)
