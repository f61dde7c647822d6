"""What operators must hear of a call though its caller noticed nothing: fallbacks, refused credentials.

Invariants: a provider that refuses the gateway's credentials is counted and logged whatever answered in the
end; a caller who was answered by another model group than the one asked is counted; no text of a provider.
"""

import logging
from collections.abc import Callable

from llm_proxy.ledger.record import UsageRecord
from llm_proxy.telemetry import Metrics
from llm_proxy.upstream import Served

log = logging.getLogger(__name__)


def report_provider_troubles(
    record: UsageRecord,
    served: Served,
    metrics: Metrics,
    refused_by_provider: Callable[[str, str], None] | None = None,
) -> None:
    """Count and log what went wrong behind a call that ended.

    `refused_by_provider` hears of each deployment whose provider refused the credentials, and its group.
    """
    if served.fallback_from is not None:
        metrics.fell_back(served.fallback_from, record.group)
    refused = {hop.deployment for hop in served.hops or () if hop.refused}
    if record.refusal_code == "provider_auth" and not refused:
        refused = {record.deployment or "unknown"}
    for deployment in sorted(refused):
        metrics.count("llm_proxy_provider_auth_failures_total", deployment)
        if refused_by_provider is not None:
            refused_by_provider(deployment, record.group_asked or record.group)
        log.error(
            "a provider refused the gateway's credentials",
            extra={
                "request_id": str(record.request_id),
                "deployment": deployment,
                "group_asked": record.group_asked,
                "group": record.group,
                "answered": record.outcome == "ok",
            },
        )
