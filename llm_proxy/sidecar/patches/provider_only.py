"""During a call LiteLLM sends requests to the provider and to no other host.

Unpatched, it loads tokenizers and limits from a hub, asks local servers about their models and fetches images
to count tokens, blocking the event loop; it follows a provider's redirects with the prompt. Invariants: what
is not loaded has a default; an image that a provider takes inline only is still fetched, behind LiteLLM's
SSRF guard. `config` and `environment` set its own switches for the rest.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module

from llm_proxy.sidecar.litellm_internals import Theirs
from llm_proxy.sidecar.patches.patch import Patch

HUB = "https://huggingface.co/"
HUB_FILE = "/raw/"
CLIENTS = "litellm.llms.custom_httpx.http_handler"
TOKEN_COUNTER = "litellm.litellm_core_utils.token_counter"  # noqa: S105 -- a module's name
OLLAMA_INFO = "litellm.llms.ollama.common_utils"
LEMONADE = "litellm.llms.lemonade.chat.transformation"
SAFE = frozenset({"GET", "HEAD"})
"""Methods that carry no prompt; whoever fetches a link follows its redirects with a guard of its own."""
REDIRECTED = {
    "error": {"message": "The provider answered with a redirect.", "type": "server_error", "code": "redirect"}
}


class HubNotAskedError(ConnectionError):
    """The hub would have been asked for a file; LiteLLM takes it for a hub that is away."""


def install() -> None:
    """Patch what asks; before the first call."""
    _ask_no_hub()
    _count_pictures_unseen()
    _ask_no_server_about_its_models()
    _send_prompts_nowhere_else()


def _ask_no_hub() -> None:
    """Files of a model's repository: limits (`config.json`), chat templates, tokenizers' settings."""
    clients = import_module(CLIENTS)
    clients.HTTPHandler.get = _unless_hub(clients.HTTPHandler.get)
    clients.AsyncHTTPHandler.get = _unless_hub(clients.AsyncHTTPHandler.get)


def _unless_hub(get: Callable[..., Theirs]) -> Callable[..., Theirs]:
    def get_unless_hub(self: Theirs, url: str, *words: Theirs, **options: Theirs) -> Theirs:
        if str(url).startswith(HUB) and HUB_FILE in str(url):
            raise HubNotAskedError(f"no file is loaded from {HUB}")
        return get(self, url, *words, **options)

    return get_unless_hub


def _count_pictures_unseen() -> None:
    counter: Theirs = import_module(TOKEN_COUNTER)
    measure: Callable[..., tuple[int, int]] = counter.get_image_dimensions
    unknown = (counter.DEFAULT_IMAGE_WIDTH, counter.DEFAULT_IMAGE_HEIGHT)

    def measure_inline_only(data: str) -> tuple[int, int]:
        return measure(data) if data.startswith("data:") else unknown

    counter.get_image_dimensions = measure_inline_only


def _ask_no_server_about_its_models() -> None:
    """What LiteLLM says itself when such a server does not answer."""
    ollama = import_module(OLLAMA_INFO).OllamaModelInfo
    lemonade = import_module(LEMONADE).LemonadeChatConfig

    def of_ollama(self: Theirs, model: str, **_: Theirs) -> dict[str, Theirs]:
        return _unknown(self._strip_ollama_model_prefix(model), "ollama")

    def of_lemonade(_: Theirs, model: str, **__: Theirs) -> dict[str, Theirs]:
        return _unknown(f"lemonade/{model.removeprefix('lemonade/')}", "lemonade")

    ollama.get_runtime_model_info = of_ollama
    lemonade.get_model_info = of_lemonade


def _send_prompts_nowhere_else() -> None:
    """A provider that answers with a redirect would have the prompt sent to any address it names."""
    http = import_module("httpx")
    send: Callable[..., Awaitable[Theirs]] = http.AsyncClient.send
    send_blocking: Callable[..., Theirs] = http.Client.send

    async def send_here(self: Theirs, request: Theirs, **options: Theirs) -> Theirs:
        if request.method in SAFE:
            return await send(self, request, **options)
        answer = await send(self, request, **options | {"follow_redirects": False})
        if not 300 <= answer.status_code < 400:
            return answer
        await answer.aclose()
        return http.Response(502, json=REDIRECTED, request=request)

    def send_here_blocking(self: Theirs, request: Theirs, **options: Theirs) -> Theirs:
        if request.method in SAFE:
            return send_blocking(self, request, **options)
        answer = send_blocking(self, request, **options | {"follow_redirects": False})
        if not 300 <= answer.status_code < 400:
            return answer
        answer.close()
        return http.Response(502, json=REDIRECTED, request=request)

    http.AsyncClient.send = send_here
    http.Client.send = send_here_blocking


def _unknown(key: str, provider: str) -> dict[str, Theirs]:
    prices = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
    limits = dict.fromkeys(("max_tokens", "max_input_tokens", "max_output_tokens"))
    return {"key": key, "litellm_provider": provider, "mode": "chat", **prices, **limits}


PATCH = Patch(
    name="provider_only",
    install=install,
    reason=(
        "During a call LiteLLM asks hubs, local servers and callers' links, synchronously on the event loop."
    ),
    since="1.106.2",
    report=(
        "To file: `token counting and cost calculation load tokenizers, config.json, /api/show and image "
        "URLs in the event loop; one setting for no lookups`."
    ),
    until="One setting of LiteLLM's keeps every look-up but the provider's off.",
    tests=("tests/stages/test_sidecar_provider_only.py",),
)
