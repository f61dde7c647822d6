"""Requests and answers of dialects without an SDK in the tests' environment: Google's, Cohere's, our own."""

from typing import Any, Literal, NotRequired

from openai.types.chat import ChatCompletionMessageParam
from typing_extensions import TypedDict

Json = dict[str, Any]


class Part(TypedDict):
    """Text, a file's bytes, a call of a function or its result."""

    text: NotRequired[str]
    thought: NotRequired[bool]
    thoughtSignature: NotRequired[str]
    inlineData: NotRequired[Json]
    fileData: NotRequired[Json]
    functionCall: NotRequired[Json]
    functionResponse: NotRequired[Json]


class Content(TypedDict):
    """The parts of one turn."""

    role: NotRequired[Literal["user", "model"]]
    parts: list[Part]


class GenerateContentRequest(TypedDict):
    """Google's `generateContent`."""

    contents: list[Content]
    systemInstruction: NotRequired[Content]
    generationConfig: NotRequired[Json]
    tools: NotRequired[list[Json]]
    toolConfig: NotRequired[Json]
    safetySettings: NotRequired[list[Json]]
    cachedContent: NotRequired[str]


class Candidate(TypedDict):
    """One answer."""

    content: NotRequired[Content]
    finishReason: NotRequired[str]
    index: NotRequired[int]
    safetyRatings: NotRequired[list[Json]]
    logprobsResult: NotRequired[Json]
    citationMetadata: NotRequired[Json]
    groundingMetadata: NotRequired[Json]


class UsageMetadata(TypedDict):
    """Tokens."""

    promptTokenCount: NotRequired[int]
    candidatesTokenCount: NotRequired[int]
    thoughtsTokenCount: NotRequired[int]
    cachedContentTokenCount: NotRequired[int]
    totalTokenCount: int


class GenerateContentResponse(TypedDict):
    """A whole answer, or one event of a stream."""

    candidates: NotRequired[list[Candidate]]
    promptFeedback: NotRequired[Json]
    usageMetadata: NotRequired[UsageMetadata]
    modelVersion: str
    responseId: str


class EmbedContentRequest(TypedDict):
    """One text for a vector."""

    content: Content
    taskType: NotRequired[str]
    title: NotRequired[str]
    outputDimensionality: NotRequired[int]


class ContentEmbedding(TypedDict):
    """A vector."""

    values: list[float]


class EmbedContentResponse(TypedDict):
    """A vector and its tokens."""

    embedding: ContentEmbedding
    usageMetadata: NotRequired[UsageMetadata]


class BatchEmbedContentsRequest(TypedDict):
    """Several texts."""

    requests: list[EmbedContentRequest]


class BatchEmbedContentsResponse(TypedDict):
    """A vector for each text."""

    embeddings: list[ContentEmbedding]
    usageMetadata: NotRequired[UsageMetadata]


class RerankRequest(TypedDict):
    """Cohere's and Jina's fields."""

    model: str
    query: str | Json
    documents: list[str | Json]
    top_n: NotRequired[int]
    return_documents: NotRequired[bool]
    rank_fields: NotRequired[list[str]]
    max_chunks_per_doc: NotRequired[int]
    max_tokens_per_doc: NotRequired[int]
    user: NotRequired[str]


class RankedDocument(TypedDict):
    """A document's place in the request, and its relevance."""

    index: int
    relevance_score: float
    document: NotRequired[Json]


class RerankResponse(TypedDict):
    """The documents, the most relevant first."""

    id: NotRequired[str]
    results: list[RankedDocument]
    meta: NotRequired[Json | None]


class EmbedRequest(TypedDict):
    """Cohere's `embed`: `texts`, `images` or `inputs`."""

    model: str
    texts: NotRequired[list[str]]
    images: NotRequired[list[str]]
    inputs: NotRequired[list[Json]]
    input_type: NotRequired[str]
    embedding_types: NotRequired[list[Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]]]
    truncate: NotRequired[Literal["NONE", "START", "END", "LEFT", "RIGHT"]]
    output_dimension: NotRequired[int]
    max_tokens: NotRequired[int]
    priority: NotRequired[int]


class EmbedResponse(TypedDict):
    """Vectors by type; in version 1 without requested types a list of vectors."""

    id: NotRequired[str]
    embeddings: Json | list[list[float]]
    texts: NotRequired[list[str]]
    meta: NotRequired[Json]
    response_type: Literal["embeddings_by_type", "embeddings_floats"]


class InternalRequest(TypedDict):
    """A chat; `metadata` names the agent, the microDAO and the channel. Further fields are OpenAI's."""

    messages: list[ChatCompletionMessageParam]
    model: NotRequired[str]
    metadata: NotRequired[Json]
    stream: NotRequired[bool]
    max_tokens: NotRequired[int]
    temperature: NotRequired[float]
    tools: NotRequired[list[Json]]


class InternalUsage(TypedDict):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class InternalResponse(TypedDict):
    """The answer with what served it."""

    content: str
    tool_calls: NotRequired[list[Json]]
    usage: InternalUsage
    provider: str
    model_resolved: str
    latency_ms: float


class InternalEvent(TypedDict):
    """One event of a stream; the last has `done` and the answer's other fields."""

    content: str
    tool_calls: NotRequired[list[Json]]
    done: NotRequired[bool]
    usage: NotRequired[InternalUsage]
    provider: NotRequired[str]
    model_resolved: NotRequired[str]
    latency_ms: NotRequired[float]


class GenerateRequest(TypedDict):
    """A chat with camelCase names; further fields are OpenAI's, in either spelling."""

    messages: list[ChatCompletionMessageParam]
    model: NotRequired[str]
    provider: NotRequired[str]
    maxTokens: NotRequired[int]
    temperature: NotRequired[float]
    topP: NotRequired[float]
    tools: NotRequired[list[Json]]
    responseFormat: NotRequired[Json]
    userId: NotRequired[str]


class GenerateUsage(TypedDict):
    """Tokens."""

    totalTokens: int
    promptTokens: int
    completionTokens: int


class GenerateResponse(TypedDict):
    """The answer."""

    content: str
    toolCalls: NotRequired[list[Json]]
    usage: GenerateUsage


class GenerateEvent(TypedDict):
    """One event of a stream; the last has usage and finish reason."""

    content: str
    toolCalls: NotRequired[list[Json]]
    usage: NotRequired[GenerateUsage]
    finishReason: NotRequired[str | None]
