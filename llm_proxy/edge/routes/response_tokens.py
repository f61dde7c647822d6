"""`POST /v1/responses/input_tokens`: how large a Responses body is, without a call.

Invariants: a count takes no concurrency slot, counts in no limit or budget, and is not recorded; what it
rejects, `/v1/responses` rejects with the same message. Source: https://platform.openai.com/docs/api-reference/responses.
"""

from fastapi import APIRouter
from starlette.requests import Request

from llm_proxy.dialects.dialect import CountingDialect
from llm_proxy.edge.inference import RequestReader
from llm_proxy.edge.routes.admin_bodies import COUNT_ERRORS
from llm_proxy.json_access import Json
from llm_proxy.upstream.token_counter import TokenCounter

COUNT_PATHS = ("/v1/responses/input_tokens", "/responses/input_tokens", "/openai/responses/input_tokens")


def router(dialect: CountingDialect, reader: RequestReader, counter: TokenCounter) -> APIRouter:
    """Returns the route."""
    routes = APIRouter(tags=["responses"], responses=COUNT_ERRORS)

    @routes.post(COUNT_PATHS[0], summary="Count the tokens of a Responses body, without a call.")
    @routes.post(COUNT_PATHS[1], include_in_schema=False)
    @routes.post(COUNT_PATHS[2], include_in_schema=False)
    async def input_tokens(request: Request) -> Json:
        caller, asked = await reader.read_count(request, dialect)
        tokens = await counter.count(caller, asked.body, asked.size_bytes)
        return {"object": "response.input_tokens", "input_tokens": tokens}

    return routes
