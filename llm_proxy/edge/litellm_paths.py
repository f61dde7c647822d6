"""The paths of LiteLLM's API that are not served, and what to use instead, for the message of the 404.

Pure. Source: the routes of LiteLLM's proxy.
"""

_GONE = (
    ("/key/", "keys are managed by `/admin/keys`, with an admin key, and `llm-proxy keys`"),
    ("/v2/key/", "keys are managed by `/admin/keys`, with an admin key, and `llm-proxy keys`"),
    ("/team/", "a team is a tenant: a name in keys and in limit policies (`/admin/limits`)"),
    ("/organization/", "there are no organizations; a tenant has limits and budgets (`/admin/limits`)"),
    ("/project/", "there are no projects; a tenant has limits and budgets (`/admin/limits`)"),
    ("/user/", "users are named by calls, and limited by `/admin/limits`"),
    ("/v2/user/", "users are named by calls, and limited by `/admin/limits`"),
    ("/customer/", "end users are named by calls, and limited by `/admin/limits`"),
    ("/end_user/", "end users are named by calls, and limited by `/admin/limits`"),
    ("/budget/", "budgets are part of keys and of limit policies (`/admin/keys`, `/admin/limits`)"),
    ("/tag/", "tags are named by calls and keys; `/v1/usage?by=tag` reports them"),
    ("/spend/", "usage and cost are in `/v1/usage` and `/v1/requests/{id}`"),
    ("/global/", "usage and cost are in `/v1/usage`"),
    ("/cost/", "usage and cost are in `/v1/usage`; `/v1/explain` estimates a call"),
    ("/model/", "models are in litellm-config.yaml, and applied by `llm-proxy reload`"),
    ("/v2/model/", "models are listed by `/v1/models` and `/v1/model/info`"),
    ("/model_group/", "models are listed by `/v1/models` and `/v1/model/info`"),
    ("/credentials", "credentials are in litellm-config.yaml"),
    ("/guardrails", "guardrails are in litellm-config.yaml"),
    ("/config/", "the configuration is litellm-config.yaml, and applied by `llm-proxy reload`"),
    ("/cache/", "the cache is deleted by `DELETE /admin/cache`"),
    ("/health/", "the state is in `/health`, `/health/live` and `/health/ready`"),
    ("/ui", "the console has an address of its own (`llm-proxy console`)"),
    ("/sso/", "people sign in at the console; programs use admin keys (`llm-proxy admin-keys`)"),
    ("/engines/", "name the model in the body, and call `/v1/chat/completions` or its like"),
    ("/anthropic/", "providers' own paths are not passed through; Anthropic's protocol is `/v1/messages`"),
    ("/vertex", "providers' own paths are not passed through"),
    ("/gemini/", "providers' own paths are not passed through; Google's API is `/v1beta/models/{model}:...`"),
    ("/bedrock/", "providers' own paths are not passed through"),
    ("/azure", "providers' own paths are not passed through"),
    ("/cohere/", "providers' own paths are not passed through"),
    ("/langfuse/", "providers' own paths are not passed through"),
    ("/mcp", "MCP servers are not served"),
    ("/a2a/", "agents of A2A are not served"),
    ("/utils/", "`/v1/explain` tells what would happen to a call"),
)
"""The beginning of a path of LiteLLM's, and what to use instead."""


def where_it_went(path: str) -> str:
    """Returns a sentence that says what to use instead of a path of LiteLLM's; empty for any other."""
    return next(
        (
            f" This path of LiteLLM's API is not served: {place}."
            for start, place in _GONE
            if path.startswith(start)
        ),
        "",
    )
