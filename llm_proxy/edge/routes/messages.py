"""`POST /v1/messages/count_tokens`: how large a Messages body is, without a call.

Invariants: a count takes no concurrency slot, counts in no limit or budget, and is not recorded; what it
rejects, `/v1/messages` rejects with the same message. Source: https://platform.claude.com/docs/en/api/messages-count-tokens.
"""

import orjson
from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from llm_proxy.dialects.messages.dialect import MessagesDialect
from llm_proxy.edge.inference import RequestReader
from llm_proxy.edge.routes.admin_bodies import COUNT_ERRORS
from llm_proxy.json_access import Json
from llm_proxy.telemetry import uuid7
from llm_proxy.upstream.token_counter import TokenCounter

COUNT_PATHS = ("/v1/messages/count_tokens", "/messages/count_tokens")


def router(dialect: MessagesDialect, reader: RequestReader, counter: TokenCounter) -> APIRouter:
    """Returns the route; `?beta=true` changes nothing."""
    routes = APIRouter(tags=["messages"], responses=COUNT_ERRORS)

    @routes.post(COUNT_PATHS[0], summary="Count the tokens of a Messages body, without a call.")
    @routes.post(COUNT_PATHS[1], include_in_schema=False)
    async def count_tokens(request: Request) -> Response:
        caller, asked = await reader.read_count(request, dialect)
        tokens = await counter.count(caller, asked.body, asked.size_bytes)
        return anthropic_response({"input_tokens": tokens})

    return routes


def anthropic_response(body: Json) -> Response:
    """Returns an answer with a request id under both names."""
    request_id = str(uuid7())
    headers = {"x-request-id": request_id, "request-id": request_id}
    return Response(orjson.dumps(body), media_type="application/json", headers=headers)
