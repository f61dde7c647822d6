"""The mode that calls the providers from this process, on LiteLLM's `Router`."""

from llm_proxy_service.backend import Backend
from llm_proxy_service.errors import UnsupportedError
from llm_proxy_service.options import ServiceOptions


def connect(options: ServiceOptions) -> Backend:
    """The providers of this process.

    Raises:
        UnsupportedError: This release has no in-process mode yet.
    """
    raise UnsupportedError(f"set base_url: calls from this process ({options}) are not built yet")
