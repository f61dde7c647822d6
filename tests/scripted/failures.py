"""Error answers as real providers send them: status, headers, body. `{"do": "says-NAME"}` plays one.

The shapes are those of public documentation and bug reports; keys, ids and hosts in them are invented.
"""

# ruff: noqa: E501 -- messages stay in one piece where they fit a screen

from dataclasses import dataclass, field

from scripted.script import Json

GENERATIVE = "type.googleapis.com/google.rpc"


@dataclass(frozen=True, slots=True)
class Failure:
    """One error answer; `body` is sent as JSON, or as it is when it is text."""

    status: int
    body: Json | list[Json] | str
    headers: dict[str, str] = field(default_factory=dict[str, str])


def _openai(message: str, kind: str | None, param: str | None = None, code: object = None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _anthropic(kind: str, message: str) -> Json:
    return {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
    }


def _google(code: int, status: str, message: str, *details: Json) -> Json:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def _openrouter(code: int, message: str, **metadata: object) -> Json:
    error: Json = {"message": message, "code": code}
    return {"error": error | ({"metadata": metadata} if metadata else {}), "user_id": "user_2fGh7KqPzZ1"}


FAILURES: dict[str, Failure] = {
    # OpenAI
    "temperature": Failure(
        400,
        _openai(
            "Unsupported value: 'temperature' does not support 0.2 with this model. "
            "Only the default (1) value is supported.",
            "invalid_request_error", "temperature", "unsupported_value",
        ),
    ),
    "verify": Failure(
        400,
        _openai(
            "Your organization must be verified to stream this model. Please go to: "
            "https://platform.openai.com/settings/organization/general and click on Verify Organization. "
            "If you just verified, it can take up to 15 minutes for access to propagate.",
            "invalid_request_error", "stream", "unsupported_value",
        ),
    ),
    "no-param": Failure(
        400, _openai("Unrecognized request argument supplied: reasoning_effort", "invalid_request_error")
    ),
    "wrong-key": Failure(
        401,
        _openai(
            "Incorrect API key provided: sk-canar*******************cdef. You can find your API key at "
            "https://platform.openai.com/account/api-keys.",
            "invalid_request_error", None, "invalid_api_key",
        ),
    ),
    "no-such-model": Failure(
        404,
        _openai(
            "The model `gpt-99` does not exist or you do not have access to it.",
            "invalid_request_error", None, "model_not_found",
        ),
    ),
    "conflict": Failure(409, _openai("The resource is being updated by another request.", "conflict_error")),
    "own-code": Failure(400, _openai("Bad colour.", "invalid_request_error", None, "colour_zz7")),
    "media": Failure(415, _openai("Unsupported media type 'image/tiff'.", "invalid_request_error")),
    "rate": Failure(
        429,
        _openai(
            "Rate limit reached for gpt-4o in organization org-Xy7Kq2LmN9pQ on tokens per min (TPM): Limit "
            "30000, Used 29000, Requested 2000. Please try again in 2s.",
            "tokens", None, "rate_limit_exceeded",
        ),
        {"retry-after-ms": "1500"},
    ),
    "spent": Failure(
        429,
        _openai(
            "You exceeded your current quota, please check your plan and billing details.",
            "insufficient_quota", None, "insufficient_quota",
        ),
    ),
    "internal": Failure(
        500,
        _openai(
            "The server had an error processing your request. Contact us at help@openai.example if it "
            "persists. (Please include the request ID req_4f1c9a7be02d in your message.)",
            "server_error",
        ),
    ),
    "busy": Failure(503, _openai("The engine is currently overloaded, please try again later", "server_error")),
    # Azure
    "azure-filter": Failure(
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
                "management policy. Please modify your prompt and retry.",
                "type": None, "param": "prompt", "code": "content_filter", "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
            }
        },
    ),
    "azure-deployment": Failure(
        404,
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}},
    ),
    "azure-rate": Failure(
        429,
        {
            "error": {
                "code": "429",
                "message": "Requests to the ChatCompletions_Create Operation have exceeded token rate limit of "
                "your current OpenAI S0 pricing tier. Please retry after 27 seconds.",
            }
        },
    ),
    "azure-subscription": Failure(401, {"statusCode": 401, "message": "Access denied due to invalid subscription key."}),
    # Anthropic
    "too-long": Failure(
        400, _anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")
    ),
    "anthropic-field": Failure(400, _anthropic("invalid_request_error", "temperature: range: 0..1")),
    "anthropic-path": Failure(
        400, _anthropic("invalid_request_error", "tools.0.custom.name: String should have at most 128 characters")
    ),
    "credit": Failure(
        400,
        _anthropic(
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
        ),
    ),
    "overloaded": Failure(529, _anthropic("overloaded_error", "Overloaded")),
    # Gemini, Vertex
    "gemini-quota": Failure(
        429,
        _google(
            429, "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check your plan and billing details. For more information, "
            "head to: https://ai.google.dev/gemini-api/docs/rate-limits.\n* Quota exceeded for metric: "
            "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 20\n"
            "Please retry in 34.074824224s.",
            {"@type": f"{GENERATIVE}.Help", "links": [{"url": "https://ai.google.dev/gemini-api/docs"}]},
            {"@type": f"{GENERATIVE}.QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerMinute"}]},
            {"@type": f"{GENERATIVE}.RetryInfo", "retryDelay": "34s"},
        ),
    ),
    "gemini-spent": Failure(
        429,
        _google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan and billing."),
    ),
    "gemini-key": Failure(
        400,
        _google(
            400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.",
            {"@type": f"{GENERATIVE}.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"},
        ),
    ),
    "gemini-tokens": Failure(
        400,
        _google(
            400, "INVALID_ARGUMENT",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        ),
    ),
    "vertex-list": Failure(
        503, [_google(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")]
    ),
    "vertex-denied": Failure(
        403,
        _google(
            403, "PERMISSION_DENIED",
            "Permission 'aiplatform.endpoints.predict' denied on resource "
            "'//aiplatform.googleapis.com/projects/my-secret-project/locations/us-central1'.",
        ),
    ),
    # Half a surrogate, as JSON may spell it
    "half": Failure(
        400,
        '{"error":{"message":"bad \\ud800 temperature","type":"t\\ud800","param":"p\\ud800","code":"c\\ud800"}}',
    ),
    "half-failed": Failure(500, '{"error":{"message":"bad \\ud800 luck","type":"server_error"}}'),
    # OpenRouter
    "openrouter-raw": Failure(
        400,
        _openrouter(
            400, "Provider returned error",
            raw='{"type":"error","error":{"type":"invalid_request_error","message":"A maximum of 4 blocks with '
            'cache_control may be provided. Found 5."},"request_id":"req_0123456789ab"}',
            provider_name="Anthropic",
        ),
    ),
    "openrouter-credits": Failure(
        402, _openrouter(402, "Insufficient credits. Add more using https://openrouter.ai/settings/credits")
    ),
    "openrouter-flagged": Failure(
        403,
        _openrouter(
            403, "Input flagged by moderation", reasons=["violence"], flagged_input="secret words of a prompt",
            provider_name="OpenAI",
        ),
    ),
    # Groq
    "groq-context": Failure(
        400,
        _openai(
            "Please reduce the length of the messages or completion.",
            "invalid_request_error", "messages", "context_length_exceeded",
        ),
    ),
    "groq-large": Failure(
        413,
        _openai(
            "Request too large for model `llama-3.3-70b-versatile` in organization `org_01jq2m4x8vfe9` service "
            "tier `on_demand` on tokens per minute (TPM): Limit 6000, Requested 7200, please reduce your message "
            "size and try again.",
            "tokens", None, "rate_limit_exceeded",
        ),
    ),
    "groq-minutes": Failure(
        429,
        _openai(
            "Rate limit reached for model `llama` on tokens per day (TPD). Please try again in 2m59.56s.",
            "tokens", None, "rate_limit_exceeded",
        ),
    ),
    "groq-flex": Failure(498, _openai("Flex capacity exceeded.", "capacity_exceeded")),
    # Mistral
    "mistral-context": Failure(
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum "
            "context length",
            "type": "invalid_request_prompt", "param": None, "code": "3051",
        },
    ),
    "mistral-detail": Failure(
        422,
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden", "loc": ["body", "seed"],
                        "msg": "Extra inputs are not permitted", "input": 5,
                    }
                ]
            },
            "type": "invalid_request_error", "param": None, "code": None,
        },
    ),
    # xAI
    "xai-context": Failure(
        400,
        {
            "code": "Client specified an invalid argument",
            "error": "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        },
    ),
    "xai-credits": Failure(
        403,
        {
            "code": "The caller does not have permission to execute the specified operation",
            "error": "Your newly created team doesn't have any credits yet.",
        },
    ),
    "xai-unsafe": Failure(
        403,
        {
            "code": "The caller does not have permission to execute the specified operation",
            "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
        },
    ),
    "xai-key": Failure(
        400,
        {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***23."},
    ),
    # Cohere
    "cohere-context": Failure(
        400,
        {
            "id": "4d3b7f0a-3b1e-4f8e-9d1c-2a5b6c7d8e9f",
            "message": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000.",
        },
    ),
    # Bedrock
    "bedrock-context": Failure(
        400,
        {"message": "Input is too long for requested model."},
        {"x-amzn-errortype": "ValidationException:http://internal.amazon.com/coral/"},
    ),
    "bedrock-denied": Failure(
        403,
        {
            "Message": "User: arn:aws:iam::123456789012:user/bot is not authorized to perform: "
            "bedrock:InvokeModel on resource: arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude"
        },
    ),
    # DeepSeek
    "deepseek-balance": Failure(402, _openai("Insufficient Balance", "unknown_error", None, "invalid_request_error")),
    "deepseek-content": Failure(400, _openai("Content Exists Risk", "invalid_request_error")),
    # vLLM
    "vllm-context": Failure(
        400,
        {
            "object": "error",
            "message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure "
            "that `max_model_len` is no smaller than the number of text tokens.",
            "type": "BadRequestError", "param": None, "code": 400,
        },
    ),
    "vllm-pydantic": Failure(
        400,
        {
            "object": "error",
            "message": "[{'type': 'missing', 'loc': ('body', 'tools', 0, 'function'), 'msg': 'Field required', "
            "'input': {'type': 'function'}}]",
            "type": "BadRequestError", "param": None, "code": 400,
        },
    ),
    # Ollama
    "ollama-tools": Failure(
        400, {"error": "registry.ollama.ai/library/gemma:latest does not support tools"}
    ),
    "ollama-context": Failure(400, {"error": "the input length exceeds the context length"}),
    "ollama-image": Failure(
        500,
        {
            "error": "Failed to create new sequence: failed to process inputs: this model is missing data required "
            "for image input"
        },
    ),
    "ollama-missing": Failure(404, {"error": 'model "nosuch" not found, try pulling it first'}),
    # llama.cpp
    "llamacpp-context": Failure(
        400,
        {
            "error": {
                "code": 400,
                "message": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
                "type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096,
            }
        },
    ),
    "llamacpp-loading": Failure(
        503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, {"retry-after": "9"}
    ),
    "llamacpp-full": Failure(
        500,
        {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}},
    ),
    "llamacpp-batch": Failure(
        500,
        {
            "error": {
                "code": 500,
                "message": "input (596 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
                "type": "server_error",
            }
        },
    ),
    "llamacpp-image": Failure(
        500,
        {
            "error": {
                "code": 500,
                "message": "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
                "type": "server_error",
            }
        },
    ),
    "llamacpp-roles": Failure(
        500,
        {
            "error": {
                "code": 500,
                "message": "\n------------\nWhile executing CallExpression at line 19, column 27 in source:\n"
                '...% 2 == 0) -%}↵        {{ raise_exception("Conversation roles must alternate user...\n'
                "                                           ^\nError: Jinja Exception: Conversation roles must "
                "alternate user/assistant/user/assistant/...",
                "type": "server_error",
            }
        },
    ),
    "llamacpp-rows": Failure(
        500,
        {
            "error": {
                "code": 500,
                "message": "Conversation roles must alternate user/assistant/user/assistant/... at row 19, column 27:\n"
                " {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n {{ raise_exception(\"Conver\n",
                "type": "server_error",
            }
        },
    ),
    # TGI
    "tgi-context": Failure(
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 "
            "`inputs` tokens and 20 `max_new_tokens`",
            "error_type": "validation",
        },
    ),
    # Cerebras
    "cerebras-context": Failure(
        400,
        {
            "message": "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
            "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded",
        },
    ),
    # Nobody's
    "unknown-json": Failure(400, {"oops": {"why": "a body of no known shape", "secret": "hush"}}),
    "unknown-page": Failure(400, "<html><body>nginx at 10.0.0.7 says no</body></html>"),
    "unknown-503": Failure(503, "upstream connect error or disconnect/reset before headers"),
    "markup": Failure(
        400,
        _openai(
            "No <img src=x onerror=alert(1)> in \"'><script>alert(1)</script> {{7*7}} here.",
            "<b>invalid_request_error</b>", "<i>messages</i>", "<u>markup</u>",
        ),
    ),
    "secrets": Failure(
        400,
        _openai(
            "Bad header 'Authorization: Bearer sk-canary-of-provider' sent to https://10.1.2.3:8443/v1/chat by "
            "ops@example.com: see /etc/llm/config.yaml, request req_9a8b7c6d5e4f, project proj_AbC123dEf456",
            "invalid_request_error",
        ),
    ),
}  # fmt: skip
