"""An example of each setting, as it stands in `.env`; a test loads every one.

A switch's is the other state, a choice's another word, a number's its double or what `EXAMPLES` has.
"""

from types import UnionType
from typing import Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

SECRET = "THE-OUTPUT-OF-openssl-rand-hex-32"  # noqa: S105 -- says how to make one
EXAMPLES: dict[str, str] = {
    "environment": "development",
    "internal_api_key": SECRET,
    "admin_key": SECRET,
    "admin_read_key": SECRET,
    "sealing_keys": f"k1={SECRET}",
    "litellm_proxy_url": "http://127.0.0.1:4101-4108",
    "litellm_api_key": f"sk-{SECRET}",
    "litellm_master_key": f"sk-{SECRET}",
    "default_model": "gpt-5-mini",
    "default_moderation_model": "omni-moderation-latest",
    "default_image_model": "gpt-image-2",
    "default_models": "gpt-5-mini,claude-*",
    "version": "2026.11.1",
    "host": "10.0.0.5",
    "port": "8080",
    "trusted_proxies": "10.0.0.0/8,127.0.0.1",
    "anthropic_betas": "context-management-2025-06-27",
    "cors_origins": "https://app.example.com",
    "database_url": "postgresql://llm_proxy:PASSWORD@db.example.com:5432/llm_proxy",
    "limits_redis_url": "rediss://:PASSWORD@limits.example.com:6379/0",
    "cache_redis_url": "rediss://:PASSWORD@cache.example.com:6379/0",
    "ca_file": "/etc/ssl/certs/ca-certificates.crt",
    "run_sources": "x-run-id,metadata.run_id",
    "affinity": "run,user",
    "keys_file": "keys.yaml",
    "deadlines": '{"o3*": {"first_byte_s": 600}}',
    "spool_dir": "/data/spool",
    "log_payloads": "acme,support",
    "store_responses": "acme,support",
    "audit_retention_days": "730",
    "retention_days": '{"refusals": 30, "usage_users": 400}',
    "metrics_tags": "team,stage",
    "langfuse_url": "https://cloud.langfuse.com",
    "langfuse_public_key": "pk-lf-0123",
    "langfuse_secret_key": "sk-lf-0123",
    "otlp_endpoint": "http://127.0.0.1:4318",
    "otlp_traces_endpoint": "http://127.0.0.1:4318/v1/traces",
    "otlp_headers": "authorization=Bearer%20TOKEN",
    "otel_service_name": "llm-gateway",
    "otel_resource_attributes": "deployment.environment=production",
    "notify_webhooks": "slack=https://hooks.slack.com/services/T0/B0/XXXX",
    "notify_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "notify_budget_shares": "50,90,100",
    "console_host": "10.0.0.5",
    "console_enabled": "false",
    "console_url": "https://console.example.com",
    "console_gateway_url": "http://gateway.internal:7007",
    "console_oidc_issuer": "https://login.example.com/realms/staff",
    "console_oidc_client_id": "llm-proxy-console",
    "console_oidc_client_secret": SECRET,
    "console_oidc_scopes": "openid email groups",
    "console_oidc_groups_claim": "roles",
    "console_oidc_name_claim": "preferred_username",
    "console_oidc_roles": '{"platform": "owner", "acme-leads": "tenant:acme"}',
}


def example(name: str, field: FieldInfo) -> str:
    """Returns the value of a setting's example."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    kind = field.annotation
    if get_origin(kind) in {Union, UnionType}:
        kind = next(one for one in get_args(kind) if one is not type(None))
    if kind is bool:
        return "false" if field.default else "true"
    if get_origin(kind) is Literal:
        return str(next(one for one in get_args(kind) if one != field.default))
    if kind in (int, float):
        return _double(field.default)
    raise ValueError(f"{name} has no example")


def _double(default: object) -> str:
    doubled = default * 2 if isinstance(default, int | float) and default else 10
    return str(int(doubled) if doubled == int(doubled) else doubled)
