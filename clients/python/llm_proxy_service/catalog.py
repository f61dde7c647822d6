"""Models as a service knows them: who serves them, what they can do, what they cost, how they are chosen.

Invariant: a `ModelConfig` names a model at one provider; two of the same model name are two places that
serve it, between which a strategy chooses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar


class LLMProvider(StrEnum):
    """Who serves a model; LOCAL is any server of your own that speaks OpenAI's API."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    AZURE = "azure"
    HUGGINGFACE = "huggingface"
    OLLAMA = "ollama"
    LOCAL = "local"


class ModelCapability(StrEnum):
    """What a model can do; a request that needs one goes only to models that state it."""

    TEXT_GENERATION = "text_generation"
    CHAT_COMPLETION = "chat_completion"
    CODE_COMPLETION = "code_completion"
    FUNCTION_CALLING = "function_calling"
    EMBEDDINGS = "embeddings"
    IMAGE_ANALYSIS = "image_analysis"


class LoadBalanceStrategy(StrEnum):
    """How one of several providers of a model is chosen."""

    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    WEIGHTED = "weighted"
    FASTEST_RESPONSE = "fastest_response"
    COST_OPTIMIZED = "cost_optimized"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One model at one provider.

    Attributes:
        model_name: The provider's own name of the model; callers request it by this name.
        api_key: None takes the provider's environment variable, `OPENAI_API_KEY` and so on.
        capabilities: None leaves them open: any request may go there.
        max_tokens: The most tokens one answer may have; larger requests are lowered to it.
        cost_per_1k_tokens: US dollars for 1000 tokens of either kind; None takes the known price.
        rate_limit: Requests a minute; None is no limit.
        priority: The order in which others take over when a provider fails, 1 first.
        weight: The share under `WEIGHTED`, relative to the others.
        api_base: The provider's address, where it is not the usual one.
        timeout: Seconds without a byte after which a call is given up; None takes the service's.
        extra: Further parameters of LiteLLM's deployment, such as `api_version`.
    """

    provider: LLMProvider
    model_name: str
    api_key: str | None = field(default=None, repr=False)
    capabilities: Sequence[ModelCapability] | None = None
    max_tokens: int | None = None
    cost_per_1k_tokens: float | None = None
    rate_limit: int | None = None
    priority: int = 1
    weight: float = 1.0
    api_base: str | None = None
    timeout: float | None = None
    extra: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)  # keys, at some


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """What `register_provider` takes: a configuration under the class that names the provider."""

    config: ModelConfig
    _kind: ClassVar[LLMProvider | None] = None

    def __post_init__(self) -> None:
        if self._kind is not None and self.config.provider is not self._kind:
            wrong = f"{type(self).__name__} is for {self._kind.name}, not {self.config.provider.name}"
            raise ValueError(wrong)


class OpenAIProvider(ProviderConfig):
    """A model at OpenAI."""

    _kind = LLMProvider.OPENAI


class AnthropicProvider(ProviderConfig):
    """A model at Anthropic."""

    _kind = LLMProvider.ANTHROPIC


class GoogleProvider(ProviderConfig):
    """A model of Google's Gemini API."""

    _kind = LLMProvider.GOOGLE


class AzureProvider(ProviderConfig):
    """A deployment at Azure OpenAI; `api_base` is needed, `extra={"api_version": …}` chooses the version."""

    _kind = LLMProvider.AZURE


class HuggingFaceProvider(ProviderConfig):
    """A model at Hugging Face's inference API or endpoint."""

    _kind = LLMProvider.HUGGINGFACE


class OllamaProvider(ProviderConfig):
    """A model of an Ollama server, by default the one on this machine."""

    _kind = LLMProvider.OLLAMA


class LocalProvider(ProviderConfig):
    """A model of any server that speaks OpenAI's API; `api_base` is needed."""

    _kind = LLMProvider.LOCAL
