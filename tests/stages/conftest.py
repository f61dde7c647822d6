"""The sidecar of the stage tests, started once: every family, retries, fallbacks, the cache, the call log."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
import vertex_account
from sidecars import Json, Provider, Sidecar, deployment, run_provider, run_sidecar
from stages.admission.limiter_outages import OwnValkey, Replicas

from llm_proxy.endpoints import ENDPOINTS, Endpoint
from llm_proxy.schema import grant_sidecar_login, migrate

FAMILIES = ("openai", "anthropic", "gemini", "ollama_chat", "hosted_vllm")
ALIKE = ("deepseek", "openrouter", "groq", "mistral", "xai")
"""Other providers on OpenAI's wire, each with a reader of its own in LiteLLM."""


@pytest.fixture(scope="session")
def provider(service_folder: Path) -> Iterator[Provider]:
    """The scripted provider; mark your prompts, other tests call it too."""
    with run_provider(service_folder) as played:
        yield played


def config(provider: Provider) -> Json:
    """One group a family, and groups that fall back."""
    families = [deployment(family, f"{family}/scripted", provider, stream_timeout=1.5) for family in FAMILIES]
    alone: Json = {"num_retries": 0, "cooldown_time": 0}
    others = [
        *(deployment(name, f"{name}/scripted", provider) for name in ALIKE),
        deployment("azure", "azure/scripted", provider, api_version="2024-10-21"),
        deployment("text", "text-completion-openai/scripted", provider, stream_timeout=1.5),
        deployment("embed", "openai/embed", provider),
        deployment("embed-ollama", "ollama/embed", provider, api_base=provider.url),
        deployment("first", "openai/first", provider),
        deployment("second", "openai/second", provider),
        deployment("own", "openai/own", provider) | {"model_info": FREE | INHOUSE},
        deployment("third", "openai/third", provider),
        deployment("wide", "openai/wide", provider),
        deployment("solo", "openai/solo", provider),
        deployment("policed", "openai/policed", provider),
        deployment("shadowed", "openai/never-asked", provider),
        deployment("lone", "openai/lone", provider, timeout=2, **alone),
        deployment("lone-anthropic", "anthropic/lone", provider, **alone),
        deployment("lone-gemini", "gemini/lone", provider, **alone),
        deployment("hasty", "openai/hasty", provider, timeout=1, stream_timeout=1),
        deployment("pair", "openai/pair-a", provider, id="pair-a"),
        deployment("pair", "openai/pair-b", provider, id="pair-b"),
        deployment("unpriced", "openai/unpriced", provider) | {"model_info": {"id": "unpriced"}},
        *mocks(provider),
        *(one for made in (natives, painters, rankers, embedders, transcribers) for one in made(provider)),
        {
            "model_name": "keyless",
            "litellm_params": {"model": "openai/keyless", "api_key": "os.environ/NO_SUCH_KEY"},
        },
    ]
    rules = {
        "fallbacks": [
            {"first": ["second"]},
            {"keyless": ["second"], "second": ["keyless"], "third": ["second"], "mocked-away": ["mocked"]},
            {"claude-away": ["claude"]},
            {"paint-away": ["paint-imagen"]},
            {"rank-unsure-moderator": ["rank-moderator"]},
            {"vectors-chat": ["gpt"], "vectors-both": ["gpt", "embed"]},
            {"gemini-away": ["gemini-flash"]},
        ],
        "context_window_fallbacks": [{"first": ["wide"]}],
        "model_group_alias": ALIASES,
        "cooldown_time": 2,
        "model_group_retry_policy": {"policed": {"DefaultRetries": 2, "BadRequestErrorRetries": 2}},
    }
    aliases = {"model_alias_map": {"oldname": "second"}}
    return {"model_list": families + others, "router_settings": rules, "litellm_settings": aliases}


def mocks(provider: Provider) -> list[Json]:
    """A deployment that answers without the provider, and one that falls back to it."""
    return [
        deployment("mocked", "openai/mocked", provider, mock_response="a text of the file"),
        deployment("mocked-away", "openai/status-503", provider, num_retries=0, cooldown_time=0),
    ]


def embedders(provider: Provider) -> list[Json]:
    """Deployments of embeddings with fallbacks of other modes; each call is tried once."""
    alone: Json = {"num_retries": 0, "cooldown_time": 0}
    return [
        deployment(name, "openai/text-embedding-3-small", provider, **alone)
        for name in ("vectors-chat", "vectors-both")
    ]


def rankers(provider: Provider) -> list[Json]:
    """Deployments that rank, speak and moderate."""
    models = {
        "cohere": ("cohere/rerank-v3.5", ""),
        "jina": ("jina_ai/jina-reranker-v2-base-multilingual", ""),
        "voyage": ("voyage/rerank-2", "/v1"),
        "bge": ("hosted_vllm/vllm-reranker", "/v1"),
        "together": ("together_ai/together-reranker", "/v1"),
        "infinity": ("infinity/bge-reranker", ""),
        "tei": ("huggingface/bge-reranker", ""),
        "speaker": ("openai/gpt-4o-mini-tts", "/v1"),
        "azure-speaker": ("azure/tts-1", ""),
        "other-speaker": ("elevenlabs/eleven_multilingual_v2", ""),
        "moderator": ("openai/omni-moderation-latest", "/v1"),
        "unsure-moderator": ("openai/status-500", "/v1"),
    }
    found = [
        deployment(f"rank-{name}", model, provider, api_base=provider.url + path)
        for name, (model, path) in models.items()
    ]
    for one in found:
        one["model_info"] = {"id": one["model_name"]}
        if one["litellm_params"]["model"].startswith("azure/"):
            one["litellm_params"]["api_version"] = "2025-04-01-preview"
    return found


def transcribers(provider: Provider) -> list[Json]:
    """Deployments that write down audio, at LiteLLM's published prices."""
    azure = {"api_base": provider.url, "api_version": "2025-04-01-preview"}
    found = [
        deployment("whisper", "openai/whisper-1", provider),
        deployment("whisper-azure", "azure/whisper-1", provider, **azure),
        deployment("transcriber", "openai/gpt-4o-mini-transcribe", provider),
        deployment("deepgram", "deepgram/nova-2", provider),
    ]
    return [one | {"model_info": {"id": one["model_info"]["id"]}} for one in found]


def natives(provider: Provider) -> list[Json]:
    """Deployments that speak Responses, Messages or Google's API."""
    at_once: Json = {"num_retries": 0, "cooldown_time": 0}
    return [
        native("gpt", "openai/gpt-4.1", provider),
        native("of-openai/*", "openai/*", provider),
        native("gpt-azure", "azure/gpt-4.1", provider, api_base=provider.url, api_version="2025-04-01"),
        native("claude", "anthropic/claude-sonnet-4-5-20250929", provider),
        native("claude-vllm", "hosted_vllm/own-claude", provider, api_base=provider.url),
        native("claude-away", "anthropic/status-529", provider, **at_once),
        speaking("generate_content", "gemini-flash", "gemini/gemini-2.5-flash", provider),
        speaking("generate_content", "gemini-away", "gemini/status-503", provider, **at_once),
        *clouds(provider),
        deployment("azure-new", "azure/gpt-4.1", provider, api_version="2025-04-01-preview"),
        {"model_name": "gpt-own", "litellm_params": {"model": "openai/gpt-4.1", "api_key": "sk-nobody"}},
        {
            "model_name": "claude-own",
            "litellm_params": {"model": "anthropic/claude-sonnet-4-5", "api_key": "x"},
        },
        {"model_name": "gemini-own", "litellm_params": {"model": "gemini/gemini-2.5-pro", "api_key": "x"}},
    ]


def painters(provider: Provider) -> list[Json]:
    """Deployments that make images, priced as LiteLLM lists them."""
    google, alone = f"{provider.url}/v1beta", {"num_retries": 0, "cooldown_time": 0}
    azure = {"api_base": provider.url, "api_version": "2025-04-01-preview"}
    models: dict[str, Json] = {
        "paint": {"model": "openai/gpt-image-1.5"},
        "paint-dalle": {"model": "openai/dall-e-3"},
        "paint-azure": {"model": "azure/gpt-image-1", **azure},
        "paint-imagen": {"model": "gemini/imagen-3.0-generate-001", "api_base": google},
        "paint-gemini": {"model": "gemini/gemini-2.5-flash-image", "api_base": google},
        "paint-stability": {"model": "stability/stable-image-core", "api_base": provider.url},
        "paint-bedrock": {
            "model": "bedrock/stability.sd3-5-large-v1:0",
            "aws_bedrock_runtime_endpoint": provider.url,
            "aws_region_name": "us-west-2",
            "aws_access_key_id": "dummy",
            "aws_secret_access_key": "dummy",
        },
        "paint-vertex": {
            "model": "vertex_ai/imagen-3.0-generate-002",
            "api_base": f"{provider.url}/imagen-3.0-generate-002:predict",
            "vertex_project": "p",
            "vertex_location": "us-central1",
            "vertex_credentials": vertex_account.made(provider.url),
        },
        "paint-away": {"model": "openai/status-503", **alone},
        "paint-lone": {"model": "openai/gpt-image-lone", **alone},
    }
    made = [
        deployment(group, str(params.pop("model")), provider, **params) for group, params in models.items()
    ]
    return [one | {"model_info": {"id": one["model_name"], "mode": "image_generation"}} for one in made]


def clouds(provider: Provider) -> list[Json]:
    """Claude at Bedrock and Vertex, and Gemini at Vertex."""
    bedrock: Json = {
        "model": "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "aws_bedrock_runtime_endpoint": provider.url,
        "aws_region_name": "us-east-1",
        "aws_access_key_id": "dummy",
        "aws_secret_access_key": "dummy",
    }
    vertex: Json = {
        "model": "vertex_ai/claude-sonnet-4-5@20250929",
        "api_base": provider.url,
        "vertex_project": "p",
        "vertex_location": "us-east5",
        "vertex_credentials": vertex_account.made(provider.url),
    }
    gemini = vertex | {"model": "vertex_ai/gemini-2.5-flash"}
    named = {"claude-bedrock": bedrock, "claude-vertex": vertex, "gemini-vertex": gemini}
    return [{"model_name": name, "litellm_params": params} for name, params in named.items()]


def native(group: str, model: str, provider: Provider, **more: Any) -> Json:
    """A deployment whose server has the paths of Responses and Messages."""
    made = speaking("responses", group, model, provider, **more)
    made["model_info"]["supported_endpoints"].append(ENDPOINTS["messages"].path)
    return made


def speaking(endpoint: Endpoint, group: str, model: str, provider: Provider, **more: Any) -> Json:
    """A deployment whose server has the path of an API."""
    made = deployment(group, model, provider, **more)
    made["model_info"]["supported_endpoints"] = [ENDPOINTS[endpoint].path]
    return made


@pytest.fixture
async def pool(database_url: str) -> "AsyncIterator[asyncpg.Pool[asyncpg.Record]]":
    """A pool on a database with the schema in it."""
    async with asyncpg.create_pool(database_url, min_size=0, max_size=8) as made:
        yield made


@pytest.fixture
async def copy_url(database_url: str) -> AsyncIterator[str]:
    """The address of a database that `copy_database` makes."""
    server, name = database_url.rpartition("/")[0], f"copy_{uuid4().hex}"
    yield f"{server}/{name}"
    connection = await asyncpg.connect(f"{server}/postgres")
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnValkey]:
    """A Valkey of this test's own."""
    made = OwnValkey(tmp_path)
    yield made
    made.end()


@pytest.fixture
async def replicas(own: OwnValkey) -> AsyncIterator[Replicas]:
    """Replicas that count there."""
    made = Replicas(own.url)
    yield made
    await made.stop()


ALIASES: Json = {
    "nickname": "second",
    "gone": "keyless",
    "veiled": {"model": "second", "hidden": True},
    "shadowed": "second",
}
INHOUSE = {"id": "own", "provider": "inhouse"}
FREE = {"input_cost_per_token": 0, "output_cost_per_token": 0}
CALL_LOG = "sidecar_call_log"
SIDECAR_PASSWORD = "only-for-the-call-log"


@pytest.fixture(scope="session")
def call_log_dsn(postgres_url: str) -> str:
    """A database with our schema, as its owner."""
    dsn = f"{postgres_url.rpartition('/')[0]}/{CALL_LOG}"

    async def made() -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(f"CREATE DATABASE {CALL_LOG}")
        await connection.close()
        await migrate(dsn, sidecar_password=SIDECAR_PASSWORD)

    asyncio.run(made())
    return dsn


@pytest.fixture
async def restored_sidecar_role(postgres_url: str) -> AsyncIterator[None]:
    """The sidecar's role belongs to the whole server: whoever gives it another password gives it back."""
    yield
    connection = await asyncpg.connect(postgres_url)
    await grant_sidecar_login(connection, SIDECAR_PASSWORD)
    await connection.close()


@pytest.fixture(scope="session")
def call_log_url(call_log_dsn: str) -> str:
    """The same, as the role that may write `llm_calls` and nothing else."""
    at = urlsplit(call_log_dsn)
    return at._replace(netloc=f"llm_proxy_sidecar:{SIDECAR_PASSWORD}@{at.hostname}:{at.port}").geturl()


class Reader:
    """Returns the rows of a call; waits for the background writer."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.connection = connection

    async def rows(self, call_id: UUID, count: int = 1) -> list[asyncpg.Record]:
        """Return the rows of one call; raises `TimeoutError` if there are none."""
        query = "SELECT * FROM llm_calls WHERE call_id = $1 ORDER BY started_at"
        async with asyncio.timeout(10):
            while len(found := await self.connection.fetch(query, call_id)) < count:  # noqa: ASYNC110 -- no event
                await asyncio.sleep(0.2)
        return found


@pytest.fixture
async def log(call_log_dsn: str) -> AsyncIterator[Reader]:
    """The table, read as its owner."""
    connection = await asyncpg.connect(call_log_dsn)
    yield Reader(connection)
    await connection.close()


@pytest.fixture(scope="session")
def sidecar(
    provider: Provider, service_folder: Path, cache_redis_url: str, call_log_url: str
) -> Iterator[Sidecar]:
    """A real sidecar before the scripted provider, shared by the run."""
    waits = {"INITIAL_RETRY_DELAY": "0.04", "MAX_RETRY_DELAY": "0.12"}
    stores = {"CACHE_REDIS_URL": cache_redis_url, "LLM_CALLS_DATABASE_URL": call_log_url}
    with run_sidecar(config(provider), provider, service_folder, **stores, **waits) as started:
        yield started
