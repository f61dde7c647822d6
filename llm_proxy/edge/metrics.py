"""`/metrics`: every worker's numbers on one Prometheus page, for who may read as an admin.

Invariants: no store is asked and no model called; which worker answers makes no difference.
"""

import time
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse, Response

from llm_proxy.edge.auth import Doorkeeper
from llm_proxy.telemetry.cells import Cells
from llm_proxy.telemetry.exposition import CONTENT_TYPE, page


def router(seats: Path | None, own: Cells, keeper: Doorkeeper) -> APIRouter:
    """The door for Prometheus.

    Args:
        seats: The folder of the workers' seats; None when this worker counts in memory.
        own: This worker's numbers.
        keeper: Says who asks.
    """
    doors = APIRouter(tags=["operation"], responses={401: {"description": "No admin key."}})

    @doors.get(
        "/metrics", summary="Metrics of all workers, for Prometheus.", response_class=PlainTextResponse
    )
    async def metrics(_: Annotated[object, Depends(keeper.admin)]) -> Response:
        return Response(page(seats, own, time.time()), headers={"content-type": CONTENT_TYPE})

    return doors
