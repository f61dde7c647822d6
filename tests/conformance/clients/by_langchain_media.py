"""LangChain's integrations of Cohere, of Google and of Azure."""

from typing import Any

from langchain_cohere import CohereEmbeddings, CohereRerank
from langchain_core.documents import Document
from langchain_core.tools import tool
from langchain_google_genai import ChatGoogleGenerativeAI, GoogleGenerativeAIEmbeddings
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings
from pydantic import BaseModel
from report import API_KEY, BASE_URL, CITY, calls, expect, play, raises, tell

GATEWAY = BASE_URL.removesuffix("/v1")
AZURE: Any = {"azure_endpoint": GATEWAY, "api_key": API_KEY, "api_version": "2025-04-01-preview"}


class Place(BaseModel):
    """What is asked for."""

    city: str


@tool
def look_up(city: str) -> str:
    """What is known of a city."""
    return f"fair in {city}"


def rerank() -> None:
    """A compressor of documents."""
    ranker = CohereRerank(model="rerank-v3.5", cohere_api_key=API_KEY, base_url=GATEWAY, top_n=2)
    found = ranker.compress_documents([Document(page_content=one) for one in "xyz"], "which?")
    expect([one.page_content for one in found] == ["z", "y"], f"other documents: {found}")
    expect(found[0].metadata["relevance_score"] == 0.9, "other score")


def cohere_embeddings() -> None:
    """Documents and a query."""
    made = CohereEmbeddings(model="embed-v4.0", cohere_api_key=API_KEY, base_url=GATEWAY)
    expect(len(made.embed_documents(["a", "b"])) == 2 and made.embed_query("a"), "other vectors")


def google(name: str, **fields: Any) -> Any:
    """A chat model of Google's integration."""
    return ChatGoogleGenerativeAI(
        model=name, google_api_key=API_KEY, base_url=GATEWAY, max_retries=1, **fields
    )


def gemini(name: str) -> None:
    """Text, a stream, tools and a schema, on Gemini or on a chat model."""
    answer = google(name).invoke(play())
    expect(answer.text and answer.usage_metadata["total_tokens"] == 40, "other answer")
    expect(len(list(google(name).stream(play()))) > 3, "no stream")
    plan = play(do="agent", steps=[[["look_up", {"city": "Oslo"}]]], text="Fair.")
    request = google(name).bind_tools([look_up]).invoke(plan)
    expect([call["args"]["city"] for call in request.tool_calls] == ["Oslo"], "other calls")
    result = look_up.invoke(request.tool_calls[0])
    last = google(name).bind_tools([look_up]).invoke([("user", plan), request, result])
    expect(
        last.text == "Fair." and "fair in Oslo" in str(calls()[-1]["body"]), "the result did not come back"
    )
    parsed = google(name).with_structured_output(Place).invoke(play(text=CITY))
    expect(parsed == Place(city="Oslo"), "not parsed")
    raises(Exception, lambda: google("nobody-has-this").invoke("x"))


def google_embeddings() -> None:
    """Documents and a query."""
    made = GoogleGenerativeAIEmbeddings(
        model="models/gemini-embedding-001", google_api_key=API_KEY, base_url=GATEWAY
    )
    expect(len(made.embed_documents(["a", "b"])) == 2 and made.embed_query("a"), "other vectors")


def azure() -> None:
    """Chat, stream, tools, schema, vectors at deployments."""
    chat = AzureChatOpenAI(azure_deployment="chat", **AZURE)
    expect(chat.invoke(play()).usage_metadata["total_tokens"] == 40, "other usage")
    expect(len(list(chat.stream(play()))) > 7, "no stream")
    called = chat.bind_tools([look_up]).invoke(play(do="tools")).tool_calls
    expect([call["args"]["city"] for call in called] == ["Oslo", "Turku"], "other calls")
    expect(chat.with_structured_output(Place).invoke(play(text=CITY)) == Place(city="Oslo"), "not parsed")
    made = AzureOpenAIEmbeddings(azure_deployment="text-embedding-3-small", **AZURE)
    try:
        expect(len(made.embed_documents(["a", "b"])) == 2, "other count")
    except OSError:  # its tokenizer's file is not on this machine
        plain = AzureOpenAIEmbeddings(
            azure_deployment="text-embedding-3-small", check_embedding_ctx_length=False, **AZURE
        )
        expect(len(plain.embed_documents(["a", "b"])) == 2, "other count")


tell(
    "LangChain, media",
    "langchain-google-genai",
    {
        "rerank": rerank,
        "embeddings by Cohere's": cohere_embeddings,
        "Gemini": lambda: gemini("gemini-2.5-flash"),
        "Google's on a chat model": lambda: gemini("chat"),
        "embeddings by Google's": google_embeddings,
        "Azure": azure,
    },
)
