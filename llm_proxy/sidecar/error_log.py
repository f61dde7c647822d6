"""LiteLLM's log lines of a failed call, without the provider's text and the traceback.

A provider may repeat a prompt in its error. The cleaned message is in the gateway's log and record.
Invariant: with `LITELLM_LOG=DEBUG` LiteLLM logs as it likes.
"""

import logging
import os

from llm_proxy.sidecar import outcome
from llm_proxy.sidecar.patch import Patch

OF_A_CALL = "litellm.proxy.proxy_server._handle_llm_api_exception(): Exception occured"
LIBRARY, OF_CALLS = "LiteLLM", ("LiteLLM Proxy", "LiteLLM Router")


def apply() -> None:
    """Add the filter to LiteLLM's loggers, before their own; once they exist."""
    if os.environ.get("LITELLM_LOG", "").upper() != "DEBUG":
        for name in (LIBRARY, *OF_CALLS):
            logging.getLogger(name).filters.insert(0, _without_text)


def _without_text(record: logging.LogRecord) -> bool:
    """Within a call the errors of proxy and router quote the call's."""
    in_a_call = record.name in OF_CALLS and record.levelno >= logging.ERROR and outcome.is_known()
    if in_a_call or str(record.msg).startswith(OF_A_CALL):
        errors = [*(record.args or ()), *(record.exc_info or ())]
        error = next((type(one).__name__ for one in errors if isinstance(one, BaseException)), "an error")
        call_id: object = getattr(record, "litellm_call_id", None)
        record.msg, record.args = "call %s failed: %s", (call_id, error)
        record.exc_info, record.exc_text = None, None
    return True


PATCH = Patch(
    name="error_log",
    install=apply,
    reason="A failed call is logged with the provider's text, which may repeat the prompt, and a traceback.",
    since="1.106.2",
    report="To file: `turn_off_message_logging does not cover exception text in log lines`.",
    until="LiteLLM's redaction covers its own log lines.",
    tests=("tests/stages/test_sidecar_errors.py::test_the_log_of_a_failure_has_no_text_of_the_provider_s",),
    after_start=True,
)
