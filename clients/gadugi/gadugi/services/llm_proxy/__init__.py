"""`get_llm_service`: the language models of this process, for agents and services of Gadugi.

Invariant: one service an event loop, made at the first call, and again after it was stopped.
"""

import asyncio

from llm_proxy_service import LLMProxyError, LLMProxyService

__all__ = ["get_llm_service"]

_services: dict[asyncio.AbstractEventLoop, LLMProxyService] = {}


async def get_llm_service() -> LLMProxyService:
    """The service of the running event loop, started; every caller on the loop gets the same one.

    It is set by the environment: `LLM_PROXY_URL` and `LLM_PROXY_API_KEY` for a gateway, else the providers'
    keys. The program stops it at its end.

    Raises:
        LLMProxyError: A setting is not valid, or a package is missing.
    """
    for ended in [loop for loop in _services if loop.is_closed()]:
        del _services[ended]
    loop = asyncio.get_running_loop()
    service = _services.get(loop) or _services.setdefault(loop, LLMProxyService())
    try:
        await service.start()
    except LLMProxyError as fault:
        if _services.get(loop) is service:
            del _services[loop]
        if fault.code != "stopped":
            raise
        return await get_llm_service()
    return service
