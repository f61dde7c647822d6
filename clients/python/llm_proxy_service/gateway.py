"""The mode that calls through a gateway."""

from llm_proxy_service.backend import Backend
from llm_proxy_service.errors import UnsupportedError
from llm_proxy_service.options import ServiceOptions


def connect(options: ServiceOptions) -> Backend:
    """The gateway at `options.base_url`.

    Raises:
        UnsupportedError: This release has no gateway mode yet.
    """
    raise UnsupportedError(f"calls through a gateway ({options.base_url}) are not built yet")
