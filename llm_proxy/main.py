"""The gateway as an ASGI application, for a server that is not ours: `uvicorn llm_proxy.main:app`.

Invariants: settings come from where `llm-proxy serve` reads them, and what stops its start stops this one.
The server brings the listener, so what `serve` does there is missing: docs/deployment.md lists it.
"""

import logging

from llm_proxy.app import create_app
from llm_proxy.cli.serve import start_settings

log = logging.getLogger(__name__)

app = create_app(start_settings()).asgi
log.warning(
    "served without llm-proxy serve: no bounds of heads and connections, no drain (docs/deployment.md)"
)
