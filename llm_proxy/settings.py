"""All settings of the gateway, read once: flags override the environment, then `.env`, then `.keys/`.

Invariants: settings are frozen; only this module reads the environment; secrets are `SecretStr`; a number's
name ends in its unit. In production an insecure combination stops the start and is named.
"""

import difflib
import json
import os
import re
import ssl
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from dotenv import dotenv_values
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from llm_proxy.postgres_urls import parse_postgres_url
from llm_proxy.redis_urls import parse_redis_url
from llm_proxy.rotation import split_secrets
from llm_proxy.schema.connections import Pooler
from llm_proxy.secret_files import FILE_SUFFIX
from llm_proxy.service_urls import InvalidURL, WebhookFormat, parse_http_url, parse_webhook_urls
from llm_proxy.setting_sources import PREFIX, NamedFiles, SplitAddresses, names_of

MASTER_KEY = "LITELLM_MASTER_KEY"
TEST_PROVIDER = "local"
"""The provider of the test models that come along, in litellm-config.yaml."""
Mode = Literal["enforce", "shadow", "off"]
OnStoreFailure = Literal["deny", "local", "allow"]


def _named(*plain: str, own: str) -> AliasChoices:
    """The prefixed name first, then the plain names that older services read."""
    return AliasChoices(PREFIX + own, *plain)


def _one_or_many(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def several(given: SecretStr | None) -> tuple[str, ...]:
    """The secrets of a setting that takes `new,old`, newest first; none for none."""
    return split_secrets(given.get_secret_value()) if given is not None else ()


def name_value_pairs(text: str) -> dict[str, str]:
    """`name=value,name=value` with percent-encoded values, as OpenTelemetry has it; raises `ValueError`."""
    pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    return {name.strip(): unquote(value.strip()) for name, value in pairs}


class GroupDeadlines(BaseModel):
    """Timeouts, in seconds, of the model groups a pattern matches; None: the setting for all groups."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first_byte_s: float | None = Field(None, gt=0)
    idle_s: float | None = Field(None, gt=0)
    total_s: float | None = Field(None, gt=0)


class RetentionDays(BaseModel):
    """Days for which rows of the named tables are kept; None: for ever."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    refusals: int = Field(14, ge=1)
    refusal_counts: int = Field(14, ge=1)
    usage_daily: int | None = Field(None, ge=400)
    usage_users: int | None = Field(None, ge=35)
    usage_user_days: int | None = Field(None, ge=35)
    lost_usage: int | None = Field(None, ge=400)
    api_keys: int | None = Field(None, ge=35)
    key_secrets: int | None = Field(400, ge=35)
    key_raises: int | None = Field(400, ge=1)
    backups: int | None = Field(400, ge=35)

    def __str__(self) -> str:
        """Returns what is set, as JSON."""
        return self.model_dump_json(exclude_unset=True)


ConsoleRole = Annotated[str, Field(pattern=r"^(owner|operator|viewer|tenant:.+)$")]
StringList = Annotated[tuple[str, ...], NoDecode]
_HEADER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RUN_FIELDS = ("metadata.run_id", "metadata.session_id")
_NO_RUN_NAMES = frozenset(
    {
        "authorization", "proxy-authorization", "cookie", "x-internal-secret", "x-internal-auth", "x-api-key",
        "api-key", "x-goog-api-key", "x-litellm-api-key",
    }
)  # fmt: skip
"""Headers that hold credentials: a run's name is written into records."""


class Settings(BaseSettings):
    """The gateway's settings; `docs/configuration.md` is generated from this class."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    # fmt: off
    environment: Literal["development", "production"] = Field("production", description="Production refuses insecure combinations at the start.")
    llm_mode: Literal["litellm", "mock"] = Field("litellm", description="`mock` answers deterministically without a sidecar and stores.")
    internal_api_key: SecretStr | None = Field(None, validation_alias=_named("LLM_PROXY_SECRET", own="INTERNAL_API_KEY"), description="Keys of trusted services: `new,old` while they rotate.")
    admin_key: SecretStr | None = Field(None, description="The first owner's admin key: may use the whole admin API and issue admin keys with names and roles; needs no database. `new,old` while it rotates.")
    admin_read_key: SecretStr | None = Field(None, description="May read the admin API and `/metrics`; needs no database. `new,old` while it rotates.")
    sealing_keys: SecretStr | None = Field(None, description="Keys that seal what callers keep for the gateway: the ids of stored responses, and a model's earlier reasoning: `id=secret`, comma-separated; an id of letters and digits, a secret of at least 32 characters. The first seals, all open: with several replicas put a new one behind the old first, then in front, and remove the old one when nothing sealed with it is needed (`docs/rotation.md`). Without any, native responses are not stored, and such reasoning does not go back to the model.")
    litellm_proxy_url: StringList = Field(("http://localhost:4000",), description="Sidecars: URLs separated by commas, a port range (`http://127.0.0.1:4101-4108`), a name with several addresses, or `@FILE` with one a line, polled for changes.")
    litellm_api_key: SecretStr | None = Field(None, description="The gateway's own key at the sidecar; by default `LITELLM_MASTER_KEY`, as a LiteLLM of your own has it. `new,old` while it rotates: a sidecar that refuses the first gets the second.")
    litellm_master_key: SecretStr | None = Field(None, validation_alias=_named(MASTER_KEY, own="LITELLM_MASTER_KEY"), description="The key of LiteLLM's clients: a caller's credential like an internal key, an admin's nowhere. `new,old` while it rotates.")
    default_model: str = Field("gpt-3.5-turbo", description="Model group for a request that names none.")
    default_moderation_model: str | None = Field(None, description="Model group for a moderation that names none; by default the only one that serves them.")
    default_image_model: str | None = Field(None, description="Model group for a generation or an edit of images that names none; by default the only one that serves them.")
    default_models: StringList = Field((), description="Model groups for callers without a list of their own; by default a virtual key may use every group configured by name, but none that only a wildcard serves (`*` allows those too), and an internal key every group.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="The lowest level that is logged; one JSON object a line, on standard error.")
    version: str | None = Field(None, description="Version shown on `/health`; the package's own by default.")
    host: str = Field("127.0.0.1", validation_alias=_named("HOST", own="HOST"), description="Address to listen on.")
    port: int = Field(7007, ge=0, le=65_535, validation_alias=_named("PORT", own="PORT"), description="Port to listen on.")
    workers: int = Field(1, ge=1, description="Gateway processes sharing the port; mock mode, which counts in memory, runs one.")
    public_bind_ok: bool = Field(default=False, description="Allow a public address in production (TLS ends in front of the gateway).")
    trusted_proxies: StringList = Field((), description="Addresses or networks whose `X-Forwarded-For` is trusted.")
    messages_ping_s: float = Field(10, gt=0, description="Seconds of silence after which a caller of a Messages stream gets a ping, before its first event too; at most half as long again.")
    anthropic_betas: StringList = Field((), description="Further `anthropic-beta` words that Anthropic gets, with or without their date; `*` for every word. Published names pass anyway.")
    cors_origins: StringList = Field((), description="Origins allowed by CORS; none by default.")

    database_url: SecretStr | None = Field(None, validation_alias=_named("DATABASE_URL", own="DATABASE_URL"), description="Postgres for keys, requests and the audit log; without it only internal keys work and records stay in the spool. Also from `DATABASE_HOST`, … or `PGHOST`, … (`docs/deployment.md`). A password with `/ # ? @ :` or `%` must be percent-encoded if the address would be ambiguous.")
    database_pooler: Pooler = Field("auto", description="What stands between gateway and Postgres: `transaction`, a pooler such as PgBouncer in transaction mode; `session`, none, or one in session mode, or PgBouncer 1.21 and later with `max_prepared_statements`. `auto`: any pooler is found at the first connection and taken for one in transaction mode, which always works and costs a query one more round trip.")
    limits_redis_url: SecretStr | None = Field(None, validation_alias=_named("LIMITS_REDIS_URL", "REDIS_URL", own="LIMITS_REDIS_URL"), description="A `noeviction` Redis or Valkey for limits and budgets; without it limits hold per process. Also from `REDIS_HOST`, … (`docs/deployment.md`).")
    cache_redis_url: SecretStr | None = Field(None, validation_alias=_named("CACHE_REDIS_URL", "REDIS_URL", own="CACHE_REDIS_URL"), description="The Redis or Valkey of the sidecars' response cache; here the sealed answers of calls with an `Idempotency-Key` are kept.")
    ca_file: Path | None = Field(None, description="CA certificates to trust besides the system's, for sidecars (`https`), Redis (`rediss`) and Postgres (`sslmode=verify-full`).")
    store_timeout_ms: int = Field(50, ge=1, description="Timeout of every call to the limits store.")
    loop_guard: Literal["off", "observe", "warn", "stop"] = Field("observe", description="What the loop guard does for runs of virtual keys, where no limit policy says otherwise.")
    loop_guard_internal: Literal["off", "observe", "warn", "stop"] = Field("off", description="The same for runs of internal keys.")
    agent_rpm: int = Field(10, ge=0, le=2**53, description="Requests a minute of each named agent; 0 means no limit.")
    limits_mode: Mode = Field("enforce", description="`shadow` only records what limits would reject, `off` ignores them.")
    limits_on_store_failure: OnStoreFailure = Field("local", description="While the limits store is unavailable: `deny`, this replica's share (`local`), or `allow`.")
    budgets_mode: Mode = Field("enforce", description="The same for budgets.")
    budgets_on_store_failure: OnStoreFailure = Field("deny", description="The same for budgets.")
    run_sources: StringList = Field(("x-run-id", "x-session-id", "metadata.run_id", "metadata.session_id", "x-claude-code-session-id", "session-id"), min_length=1, description="What names a call's run, in order: headers, and `metadata.run_id` or `metadata.session_id` of a body (`docs/agents/runs.md`).")
    run_idle_s: int = Field(86_400, ge=60, le=31_536_000, description="Seconds without a call after which a run ends, and its limits count anew.")
    affinity: Annotated[tuple[Literal["run", "prompt_cache_key", "user", "off"], ...], NoDecode] = Field(("run", "prompt_cache_key", "user"), description="What names calls that go to the deployment and sidecar that served them before, in order: the run, `prompt_cache_key` and `user` of a body; or `off`.")
    child_keys: bool = Field(default=True, description="Whether virtual keys may make keys below themselves, for sub-agents.")
    keys_file: Path | None = Field(None, description="`keys.yaml`, applied at start and by `llm-proxy keys apply`.")

    max_body_bytes: int = Field(20 * 2**20, ge=1024, description="Largest body, both as sent and decompressed; a larger one is a 413.")
    max_upload_bytes: int = Field(200 * 2**20, ge=1024, description="Largest body of a form with files, which are kept on the disk; a larger one is a 413.")
    uploads_max_bytes: int = Field(4 * 2**30, ge=1024, description="Most bytes of all uploads of one worker on the disk at once; one that would need more gets a 503.")
    max_header_bytes: int = Field(32 * 2**10, ge=1024, description="Largest request head; a larger one is a 431.")
    max_json_depth: int = Field(64, ge=4, description="Deepest nesting of a body.")
    max_messages: int = Field(4096, ge=1, description="Most messages in one request.")
    private_links: bool = Field(default=False, description="Allow image, file and tool links into private networks (the sidecar would fetch them).")
    max_connections: int = Field(10_000, ge=1, description="Most connections of callers to one worker; one more gets a 503 and is closed.")
    max_in_flight: int = Field(1000, ge=1, description="Most calls running at once in one worker and sidecar; more wait in a short queue.")
    max_waiting: int = Field(100, ge=0, description="Most calls waiting in one worker's queue; one more gets a 503 at once, without a record.")
    queue_timeout_ms: int = Field(1000, ge=0, description="Longest wait in the queue; then 503.")
    batch_queue_timeout_ms: int = Field(10_000, ge=0, description="The same for batch calls, which wait behind interactive ones.")
    first_byte_timeout_s: float = Field(120, gt=0, description="Longest wait for a response to begin. Unless set, longer for model groups whose timeouts stand in `litellm-config.yaml`: every attempt and fallback fits.")
    idle_timeout_s: float = Field(60, gt=0, description="Longest time between two frames of a stream; unless set, longer where `stream_timeout` of `litellm-config.yaml` is.")
    total_timeout_s: float = Field(600, gt=0, description="Longest call; `X-Request-Timeout` can shorten it, never extend it. Unless set, longer by what the first byte may take longer.")
    deadlines: Annotated[dict[str, GroupDeadlines], NoDecode] = Field({}, description='Other timeouts for model groups; the first matching pattern holds: `{"o3*": {"first_byte_s": 300}}`.')
    body_timeout_s: float = Field(30, gt=0, description="Longest time for a caller to send its body; a form with files gets a second more for each 32 KiB.")
    unread_timeout_s: float = Field(60, gt=0, description="Longest time in which a caller reads nothing of its response; then it counts as disconnected (Linux).")
    drain_delay_s: float = Field(5, ge=0, description="Seconds between the end of readiness and the closing of the listener.")
    drain_timeout_s: float = Field(30, ge=0, description="Seconds that running calls get after that.")
    hung_after_s: float = Field(60, ge=0, description="A worker whose event loop stands still for so many seconds is killed, and another one starts: with `--workers` above 1 or `--prefork`, and in `llm-proxy up`. 0: never.")

    spool_dir: Path = Field(Path(".local/spool"), description="Folder for records while Postgres is unavailable, and for uploads while their calls run.")
    spool_max_bytes: int = Field(512 * 2**20, ge=2**20, description="Most bytes of one worker's records there.")
    log_payloads: StringList = Field(("off",), description="Store prompts and responses, in a table of their own, secrets redacted: `off`, `full`, or the tenants, comma-separated, whose text is stored.")
    store_responses: StringList = Field(("off",), description="Keep what callers of `/v1/responses` store of models whose providers do not, in a table of its own that only the caller's id opens: `off`, `all`, or the tenants, comma-separated, who may store. It needs `LLM_PROXY__SEALING_KEYS` and a database.")
    stored_responses_retention_days: int = Field(30, ge=1, le=3650, description="Days for which a stored response is kept.")
    requests_retention_days: int = Field(90, ge=1, description="Days for which a request's row is kept; daily sums stay.")
    payloads_retention_days: int = Field(30, ge=1, description="Days for which a stored prompt and its response are kept.")
    refused_credentials_retention_days: int = Field(30, ge=1, description="Days for which counts of rejected credentials are kept.")
    audit_retention_days: int | None = Field(None, ge=31, description="Days for which the audit log is kept, in whole months; by default for ever.")
    retention_days: Annotated[RetentionDays, NoDecode] = Field(RetentionDays.model_validate({}), description='Days for which rows of other tables are kept: `{"refusals": 30, "usage_users": 400}`; the tables and their defaults are in `docs/retention.md`.')
    idempotency: Literal["on", "off"] = Field("on", description="Whether `Idempotency-Key` is read; it needs `LIMITS_REDIS_URL` and `CACHE_REDIS_URL`, else the header is ignored.")
    idempotency_retention_s: int = Field(3600, ge=1, le=604_800, description="How long an answer is kept for its `Idempotency-Key`; after that the same key makes a call anew.")
    idempotency_lease_s: float = Field(15, ge=1, le=300, description="How long a call that runs keeps its key when its gateway no longer renews it: the longest wait after a gateway was killed, and the longest outage of the limits store that such a call survives.")
    idempotency_max_bytes: int = Field(16 * 2**20, ge=1024, description="Largest answer that is kept for a key; the key of a larger one is not free again, and a repetition gets a 409.")
    idempotency_total_bytes: int = Field(128 * 2**20, ge=1024, description="Most bytes of all kept answers together; beyond, the oldest are dropped.")
    cache_mode: Literal["on", "off"] = Field("on", description="Response cache for every tenant unless a key sets another value.")
    cache_streams: bool = Field(default=True, description="Cache streamed responses, too; only with this project's sidecar, which caches no truncated one.")
    metrics_tags: StringList = Field((), description="Tags of calls with series of their own in `/metrics`, comma-separated; none by default.")
    langfuse_url: str | None = Field(None, validation_alias=_named("LANGFUSE_BASE_URL", "LANGFUSE_HOST", own="LANGFUSE_URL"), description="Langfuse's address, for erasing people there; the sidecars report to it by their own settings.")
    langfuse_public_key: str | None = Field(None, validation_alias=_named("LANGFUSE_PUBLIC_KEY", own="LANGFUSE_PUBLIC_KEY"), description="Its public key.")
    langfuse_secret_key: SecretStr | None = Field(None, validation_alias=_named("LANGFUSE_SECRET_KEY", own="LANGFUSE_SECRET_KEY"), description="Its secret key.")
    otlp_endpoint: str | None = Field(None, validation_alias=_named("OTEL_EXPORTER_OTLP_ENDPOINT", own="OTLP_ENDPOINT"), description="Where OpenTelemetry traces are sent, as OTLP over HTTP: the collector's base address, to which `/v1/traces` is added; off by default.")
    otlp_traces_endpoint: str | None = Field(None, validation_alias=_named("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", own="OTLP_TRACES_ENDPOINT"), description="The whole address for traces, used as it is; wins over the other.")
    otlp_headers: SecretStr | None = Field(None, validation_alias=_named("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS", own="OTLP_HEADERS"), description="Headers for the collector: `name=value,name=value`, values percent-encoded.")
    otel_service_name: str | None = Field(None, validation_alias=_named("OTEL_SERVICE_NAME", own="OTEL_SERVICE_NAME"), description="`service.name` of traces; `llm-proxy` by default.")
    otel_sdk_disabled: bool = Field(default=False, validation_alias=_named("OTEL_SDK_DISABLED", own="OTEL_SDK_DISABLED"), description="Send no traces.")
    otel_resource_attributes: str = Field("", validation_alias=_named("OTEL_RESOURCE_ATTRIBUTES", own="OTEL_RESOURCE_ATTRIBUTES"), description="More attributes of traces: `name=value,name=value`, values percent-encoded.")
    notify_webhooks: SecretStr | None = Field(None, description="Webhooks for notifications of spent budgets, rejected credentials and lost sidecars: `json=https://…,slack=https://…,teams=https://…`; needs a database.")
    notify_secret: SecretStr | None = Field(None, description="Key that signs notifications to `json` webhooks (Standard Webhooks: `whsec_` and base64, or any text without a comma); required for them in production. `new,old` while it rotates: each body has both signatures.")
    notify_budget_shares: Annotated[tuple[int, ...], NoDecode] = Field((50, 80, 100), description="Percentages of a budget at which a notification is sent, comma-separated; each once in a budget's period.")
    notify_sidecar_away_s: float = Field(60, gt=0, description="Seconds for which a sidecar is unavailable before a notification is sent.")
    notify_allow_private: bool = Field(default=False, description="Allow webhooks in private networks.")
    console_host: str = Field("127.0.0.1", description="Address on which the console listens.")
    console_port: int = Field(7070, ge=0, le=65_535, description="Port on which the console listens.")
    console_enabled: bool | None = Field(None, description="Start the console with `llm-proxy up`; by default in development only.")
    console_url: str | None = Field(None, description="Address by which browsers reach the console, such as `https://console.example.com`: the only host name that it answers to, beside this machine's own. In production it is required on a public address, and `https`.")
    console_gateway_url: str | None = Field(None, description="The gateway that the console asks; by default the one of these settings.")
    console_session_hours: float = Field(12, gt=0, le=24 * 30, description="Hours after which a session of the console ends.")
    console_idle_minutes: float = Field(120, ge=1, description="Minutes without a request after which it ends.")
    console_oidc_issuer: str | None = Field(None, description="OpenID provider by which people sign in at the console: its issuer, `https://login.example.com/realm`. Needs the client's id, the roles, and `LLM_PROXY__CONSOLE_URL`.")
    console_oidc_client_id: str | None = Field(None, description="The console's client id there; its redirect address is `/sign-in/oidc/callback` of the console.")
    console_oidc_client_secret: SecretStr | None = Field(None, description="Its secret; none for a public client.")
    console_oidc_scopes: str = Field("openid email profile", description="Scopes that the console asks for.")
    console_oidc_groups_claim: str = Field("groups", description="Claim that holds a person's groups; dots lead into objects: `realm_access.roles`.")
    console_oidc_name_claim: str = Field("email", description="Claim by which the audit log names a person; an address that is not verified, or a missing one, is replaced by `sub`.")
    console_oidc_roles: Annotated[dict[str, ConsoleRole], NoDecode] = Field({}, description='Role of each group: `{"platform": "owner", "support": "viewer", "acme-leads": "tenant:acme"}`; of several, the most powerful.')
    # fmt: on

    split_lists = field_validator(
        "litellm_proxy_url",
        "default_models",
        "trusted_proxies",
        "anthropic_betas",
        "cors_origins",
        "log_payloads",
        "store_responses",
        "metrics_tags",
        "run_sources",
        "affinity",
        "notify_budget_shares",
        mode="before",
    )(_one_or_many)

    @field_validator("run_sources")
    @classmethod
    def _check_run_sources(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            if name not in _RUN_FIELDS and (not _HEADER.fullmatch(name) or name.lower() in _NO_RUN_NAMES):
                raise PydanticCustomError(
                    "source",
                    "each is the name of a header that holds no credential, or one of {fields}",
                    {"fields": " and ".join(_RUN_FIELDS)},
                )
        return given

    @field_validator("ca_file")
    @classmethod
    def _check_ca_file(cls, given: Path | None) -> Path | None:
        try:
            if given is not None:
                ssl.create_default_context(cafile=given)
        except OSError as fault:  # an `SSLError` is one
            reason = "it holds no certificates" if isinstance(fault, ssl.SSLError) else fault.strerror
            raise PydanticCustomError("file", "it cannot be read: {reason}", {"reason": reason}) from None
        return given

    @field_validator("deadlines", "retention_days", "console_oidc_roles", mode="before")
    @classmethod
    def _read_json(cls, given: object) -> object:
        """Parses JSON here, because an error of pydantic-settings is no `ValidationError`."""
        try:
            return json.loads(given) if isinstance(given, str) else given
        except ValueError:
            raise PydanticCustomError("json", "it is no JSON") from None

    @field_validator("database_url", "limits_redis_url", "cache_redis_url")
    @classmethod
    def _check_store_url(cls, given: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """The address with its password percent-encoded, so that every client parses it alike."""
        if given is None:
            return None
        read = parse_postgres_url if info.field_name == "database_url" else parse_redis_url
        try:
            return SecretStr(read(given.get_secret_value()))
        except InvalidURL as fault:
            if info.field_name == "cache_redis_url" and "limits_redis_url" not in info.data:
                return given  # `REDIS_URL` is reported once
            raise PydanticCustomError("url", "{reason}", {"reason": str(fault)}) from None

    @field_validator("notify_webhooks")
    @classmethod
    def _check_webhooks(cls, given: SecretStr | None) -> SecretStr | None:
        try:
            if given is not None:
                parse_webhook_urls(given.get_secret_value())
        except InvalidURL as fault:
            raise PydanticCustomError("url", "{reason}", {"reason": str(fault)}) from None
        return given

    @field_validator("sealing_keys")
    @classmethod
    def _check_sealing_keys(cls, given: SecretStr | None) -> SecretStr | None:
        from llm_proxy.sealing import parse_sealing_keys  # noqa: PLC0415 -- 8 MB, for whoever has keys

        try:
            keys = parse_sealing_keys(given.get_secret_value()) if given is not None else ()
        except ValueError as fault:
            raise PydanticCustomError("sealing_keys", "{reason}", {"reason": str(fault)}) from None
        return given if keys else None

    @field_validator("otlp_headers", "otel_resource_attributes")
    @classmethod
    def _check_pairs(cls, given: SecretStr | str | None) -> SecretStr | str | None:
        try:
            name_value_pairs(given.get_secret_value() if isinstance(given, SecretStr) else given or "")
        except ValueError:
            raise PydanticCustomError("pairs", "it is no list of name=value, separated by commas") from None
        return given

    @field_validator("notify_budget_shares")
    @classmethod
    def _check_shares(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 < share <= 100 for share in given):
            raise PydanticCustomError("share", "each is a whole number from 1 to 100")
        return tuple(sorted(set(given)))

    @cached_property
    def webhooks(self) -> tuple[tuple[WebhookFormat, str], ...]:
        """The webhooks of notifications: format and address of each."""
        return parse_webhook_urls(self.notify_webhooks.get_secret_value()) if self.notify_webhooks else ()

    @field_validator(
        "litellm_proxy_url",
        "otlp_endpoint",
        "otlp_traces_endpoint",
        "langfuse_url",
        "console_url",
        "console_gateway_url",
        "console_oidc_issuer",
    )
    @classmethod
    def _check_http_url(cls, given: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        for one in (given,) if isinstance(given, str) else given or ():
            if not one.startswith("@"):
                try:
                    parse_http_url(one if "://" in one or isinstance(given, tuple) else f"http://{one}")
                except InvalidURL as fault:
                    raise PydanticCustomError("url", "{reason}", {"reason": str(fault)}) from None
        return given

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """A TLS context that trusts the system's authorities and those of `ca_file`."""
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context

    def tls_for(self, url: SecretStr | str | None) -> ssl.SSLContext | None:
        """`tls` if the address needs it (`https`, `rediss`, a verifying `sslmode`); None if not, or if it names its own."""
        text = url.get_secret_value() if isinstance(url, SecretStr) else url or ""
        needs_tls = text.startswith(("https:", "rediss")) or "sslmode=verify" in text
        return self.tls if needs_tls and "sslrootcert=" not in text else None

    @cached_property
    def internal_keys(self) -> tuple[str, ...]:
        """The internal keys, newest first; LiteLLM's master keys are the last."""
        return several(self.internal_api_key) + several(self.litellm_master_key)

    @cached_property
    def admin_keys(self) -> tuple[str, ...]:
        """The first owner's admin keys, newest first."""
        return several(self.admin_key)

    @cached_property
    def admin_read_keys(self) -> tuple[str, ...]:
        """The admin keys that may only read, newest first."""
        return several(self.admin_read_key)

    @cached_property
    def sidecar_keys(self) -> tuple[str, ...]:
        """The gateway's keys at the sidecar, newest first."""
        return several(self.litellm_api_key or self.litellm_master_key)

    @cached_property
    def old_secrets(self) -> dict[str, str]:
        """The secrets of callers and admins that another one stands in front of, with the setting of each."""
        lists = (
            ("INTERNAL_API_KEY", several(self.internal_api_key)),
            ("LITELLM_MASTER_KEY", several(self.litellm_master_key)),
            ("ADMIN_KEY", self.admin_keys),
            ("ADMIN_READ_KEY", self.admin_read_keys),
        )
        return {secret: f"{PREFIX}{name}" for name, secrets in lists for secret in secrets[1:]}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- replaced by the `.keys/` folder
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, `.env`, `.keys/`, in this order; then the stores' addresses in several variables.

        Behind the environment and behind `.env` come the files that `NAME_FILE` in it names.
        """
        keys = Path(".keys")
        last = (SecretsSettingsSource(settings_cls, secrets_dir=keys),) if keys.is_dir() else ()
        read = [one for one in (env_settings, dotenv_settings) if isinstance(one, EnvSettingsSource)]
        split = SplitAddresses(settings_cls, *reversed(read))
        with_files = [part for one in read for part in (one, NamedFiles(settings_cls, one))]
        return init_settings, *with_files, *last, split


def unknown_settings(variables: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like a setting and is none, with the nearest setting's name."""
    known = {name for field in Settings.model_fields for name in names_of(Settings, field)}
    known |= {f"{name}{FILE_SUFFIX}" for name in known}
    lines: list[str] = []
    for name in sorted(variables):
        given = name.upper()
        meant = given if given.startswith(PREFIX) else f"{PREFIX}{given.removeprefix(PREFIX[:-1])}"
        if given in NO_COUNTERPART:
            lines.append(f"{name} is no setting: {NO_COUNTERPART[given]}")
        if given in known or not given.startswith(PREFIX[:-1]):
            continue
        if given.startswith(PREFIX) or meant in known:
            ends = [one.removeprefix(PREFIX) for one in known if one.startswith(PREFIX)]
            close = difflib.get_close_matches(meant.removeprefix(PREFIX), ends, 1)
            lines.append(f"{name} is no setting" + (f": did you mean {PREFIX}{close[0]}?" if close else ""))
    return lines


def set_variables() -> dict[str, str]:
    """The variables of `.env` and of the environment, by name."""
    try:
        named = dotenv_values(".env")
    except UnicodeDecodeError:
        named = {}  # `load` says what is wrong with it
    return {name: value or "" for name, value in named.items()} | dict(os.environ)


def load(**flags: Any) -> Settings:  # noqa: ANN401 -- pydantic checks each by its field
    """The settings, overridden by `flags`; raises `pydantic.ValidationError`."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except UnicodeDecodeError:
        fault = PydanticCustomError("encoding", "it is not UTF-8")
        location = ("a file of .env or .keys/",)
        raise ValidationError.from_exception_data(
            "Settings", [{"type": fault, "loc": location, "input": None}]
        ) from None


def setting_errors(error: ValidationError) -> list[str]:
    """A line for each wrong setting: the variable and the reason, never the value."""
    return [f"{_variable(one['loc'])}: {one['msg']}" for one in error.errors(include_input=False)]


def _variable(location: tuple[int | str, ...]) -> str:
    """The variables that set a field, and the location of the error inside its value."""
    field, *inside = (str(part) for part in location)
    for name in Settings.model_fields:
        names = names_of(Settings, name)
        if field in {name, *names}:
            also = f" (or {', '.join(names[1:])})" if names[1:] else ""
            return ".".join([names[0], *inside]) + also
    return ".".join([field, *inside])


NO_COUNTERPART = {"LLM_PROXY_CACHE_SIZE": "the Redis that CACHE_REDIS_URL names bounds its own memory"}
"""Variables of older gateways, and what is in their place."""
