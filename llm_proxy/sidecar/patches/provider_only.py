"""During a call LiteLLM sends requests to the provider and to no other host.

Invariants: what is not loaded has a default; an image that a provider takes inline only is still fetched,
behind LiteLLM's SSRF guard. `config` and `environment` set its own switches for the rest.
"""

from collections.abc import Callable
from importlib import import_module

from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

HUB_URL = "https://huggingface.co/"
HUB_FILE_PATH = "/raw/"
HTTP_HANDLER_MODULE = "litellm.llms.custom_httpx.http_handler"
TOKEN_COUNTER_MODULE = "litellm.litellm_core_utils.token_counter"  # noqa: S105 -- a module's name
OLLAMA_MODULE = "litellm.llms.ollama.common_utils"
LEMONADE_MODULE = "litellm.llms.lemonade.chat.transformation"
METHODS_WITHOUT_PROMPT = frozenset({"GET", "HEAD"})
"""Methods that carry no prompt; LiteLLM's fetcher of links follows redirects with an SSRF guard."""
REDIRECT_ERROR = {
    "error": {"message": "The provider answered with a redirect.", "type": "server_error", "code": "redirect"}
}


class HubBlockedError(ConnectionError):
    """A request to the hub was blocked; LiteLLM treats it as an unreachable hub."""


def install() -> None:
    """Patch the functions that send such requests; before the first call."""
    _block_hub()
    _count_images_without_loading()
    _block_model_queries()
    _block_redirects()


def _block_hub() -> None:
    """Block downloads from model repositories: `config.json`, chat templates, tokenizer settings."""
    clients = import_module(HTTP_HANDLER_MODULE)
    clients.HTTPHandler.get = _unless_hub(clients.HTTPHandler.get)
    clients.AsyncHTTPHandler.get = _unless_hub(clients.AsyncHTTPHandler.get)


def _unless_hub(get: Callable[..., Untyped]) -> Callable[..., Untyped]:
    def get_unless_hub(self: Untyped, url: str, *args: Untyped, **options: Untyped) -> Untyped:
        if str(url).startswith(HUB_URL) and HUB_FILE_PATH in str(url):
            raise HubBlockedError(f"no file is loaded from {HUB_URL}")
        return get(self, url, *args, **options)

    return get_unless_hub


def _count_images_without_loading() -> None:
    """Count the tokens of a linked image as those of LiteLLM's default size."""
    counter: Untyped = import_module(TOKEN_COUNTER_MODULE)
    unknown = (counter.DEFAULT_IMAGE_WIDTH, counter.DEFAULT_IMAGE_HEIGHT)

    def measure_inline_only(data: str) -> tuple[int, int]:
        return measure(data) if data.startswith("data:") else unknown

    measure = replace(counter, "get_image_dimensions", measure_inline_only)


def _block_model_queries() -> None:
    """Return what LiteLLM assumes for a model server that does not respond."""
    ollama = import_module(OLLAMA_MODULE).OllamaModelInfo
    lemonade = import_module(LEMONADE_MODULE).LemonadeChatConfig

    def of_ollama(self: Untyped, model: str, **_: Untyped) -> dict[str, Untyped]:
        return _unknown_model_info(self._strip_ollama_model_prefix(model), "ollama")

    def of_lemonade(_: Untyped, model: str, **__: Untyped) -> dict[str, Untyped]:
        return _unknown_model_info(f"lemonade/{model.removeprefix('lemonade/')}", "lemonade")

    ollama.get_runtime_model_info = of_ollama
    lemonade.get_model_info = of_lemonade


def _block_redirects() -> None:
    """Turn a provider's redirect into a 502: it could send the prompt to any address."""
    http = import_module("httpx")

    async def send_without_redirect(self: Untyped, request: Untyped, **options: Untyped) -> Untyped:
        if request.method in METHODS_WITHOUT_PROMPT:
            return await send(self, request, **options)
        response = await send(self, request, **options | {"follow_redirects": False})
        if not 300 <= response.status_code < 400:
            return response
        await response.aclose()
        return http.Response(502, json=REDIRECT_ERROR, request=request)

    def send_without_redirect_blocking(self: Untyped, request: Untyped, **options: Untyped) -> Untyped:
        if request.method in METHODS_WITHOUT_PROMPT:
            return send_blocking(self, request, **options)
        response = send_blocking(self, request, **options | {"follow_redirects": False})
        if not 300 <= response.status_code < 400:
            return response
        response.close()
        return http.Response(502, json=REDIRECT_ERROR, request=request)

    send = replace(http.AsyncClient, "send", send_without_redirect)
    send_blocking = replace(http.Client, "send", send_without_redirect_blocking)


def _unknown_model_info(key: str, provider: str) -> dict[str, Untyped]:
    prices = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
    limits = dict.fromkeys(("max_tokens", "max_input_tokens", "max_output_tokens"))
    return {"key": key, "litellm_provider": provider, "mode": "chat", **prices, **limits}


PATCH = LiteLLMPatch(
    name="provider_only",
    install=install,
    reason=(
        "During a call LiteLLM requests hubs, local servers and callers' links, which blocks the event loop, "
        "and follows a provider's redirects with the prompt."
    ),
    until="One setting of LiteLLM turns off every request but the provider's.",
    tests=("tests/stages/sidecar/test_provider_only.py",),
)
