"""Operations of OpenAI, Anthropic, Cohere and Google that are not served here, for their callers' errors.

Pure. Invariants: a path has every alias that a served path has; nothing here is served.
"""

_OPENAI = {
    "/files": "files",
    "/uploads": "uploads",
    "/batches": "batches",
    "/chat/completions": "stored chat completions; responses can be stored (`/v1/responses`)",
    "/images/variations": "image variations",
    "/realtime": "realtime sessions",
    "/assistants": "assistants; use `/v1/responses`",
    "/threads": "threads of assistants; use `/v1/responses`",
    "/conversations": "conversations; a response can go on from a stored one (`previous_response_id`)",
    "/vector_stores": "vector stores",
    "/fine_tuning": "fine-tuning",
    "/fine-tunes": "fine-tuning",
    "/evals": "evals",
    "/containers": "containers",
    "/videos": "videos",
    "/skills": "skills",
    "/chatkit": "ChatKit",
    "/organization": "the administration of an organization; keys are managed by `/admin/keys`",
    "/audio/voices": "lists of voices; the provider of a model says which it has",
    "/messages/batches": "batches of messages",
    "/ocr": "OCR",
    "/search": "search",
}
"""Below `/v1`, `/openai`, `/openai/v1` or nothing."""
_COHERE_CHAT = ("/v1/chat", "/v2/chat")
_COHERE = {
    "/v1/generate": "Cohere's generate; use `/v1/completions`",
    "/v1/summarize": "Cohere's summarize; use `/v1/chat/completions`",
    "/v1/classify": "Cohere's classify",
    "/v1/tokenize": "Cohere's tokenizer",
    "/v1/detokenize": "Cohere's tokenizer",
    "/v1/embed-jobs": "Cohere's embed jobs; `/v2/embed` takes up to 2048 inputs",
    "/v1/datasets": "Cohere's datasets",
    "/v1/connectors": "Cohere's connectors",
    "/v1/finetuning": "fine-tuning",
    "/v1/check-api-key": "Cohere's check of keys; `GET /v1/models` answers 401 to an invalid one",
    "/v2/parse": "Cohere's parsing of documents",
}
_GOOGLE = {
    "/v1beta/files": "files; send data inline",
    "/upload": "files; send data inline",
    "/v1beta/cachedContents": "cached contents",
    "/v1beta/batches": "batches",
    "/v1beta/tunedModels": "tuned models",
    "/v1beta/fileSearchStores": "file search",
    "/v1beta/corpora": "corpora",
    "/v1beta/interactions": "interactions; use `:generateContent`",
    "/v1beta/auth_tokens": "the Live API",
    "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent": "the Live API",
}
_PREFIXES = ("/openai", "/v1")
_DEPLOYMENTS = "/deployments/"
"""Older SDKs of Azure send every operation below a deployment."""


def is_cohere(path: str) -> bool:
    """Whether a path is of Cohere's API alone, whose clients read an error's `message`."""
    return path in _COHERE_CHAT or (_find(_OPENAI, _bare(path)) is None and _find(_COHERE, path) is not None)


def not_served(path: str) -> str:
    """Returns a sentence for an operation that is not served; empty for any other path."""
    if path in _COHERE_CHAT:
        return " The gateway does not serve Cohere's chat; use `/v1/chat/completions`."
    name = _find(_OPENAI, _bare(path)) or _find(_COHERE, path) or _find(_GOOGLE, path)
    return f" The gateway does not serve {name}." if name is not None else ""


def _bare(path: str) -> str:
    for prefix in _PREFIXES:
        path = path.removeprefix(prefix) if path.startswith(prefix + "/") else path
    deployment, _, operation = path.removeprefix(_DEPLOYMENTS).rpartition("/")
    return f"/{operation}" if path.startswith(_DEPLOYMENTS) and deployment else path


def _find(table: dict[str, str], path: str) -> str | None:
    below = (name for at, name in table.items() if path.startswith(at + "/") and len(path) > len(at) + 1)
    return table.get(path) or next(below, None)
