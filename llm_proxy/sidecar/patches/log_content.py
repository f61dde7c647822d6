"""What LiteLLM's log lines and observers see of a call: no text of the provider, and the caller's tags.

Invariants: a failed call is logged without the provider's message, which may repeat a prompt, and without a
traceback, except with `LITELLM_LOG=DEBUG`; tags reach LiteLLM's logging payload by a field of this project's,
which never selects a deployment.
"""

import logging
import os
from importlib import import_module
from typing import Any

from llm_proxy.json_access import as_list, as_object
from llm_proxy.sidecar import call_outcome
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

CALL_ERROR_PREFIX = "litellm.proxy.proxy_server._handle_llm_api_exception(): Exception occured"
LIBRARY_LOGGER, CALL_LOGGERS = "LiteLLM", ("LiteLLM Proxy", "LiteLLM Router")


def _install_error_log() -> None:
    """Add a filter to LiteLLM's loggers, before their own filters; after LiteLLM's start."""
    if os.environ.get("LITELLM_LOG", "").upper() != "DEBUG":
        for name in (LIBRARY_LOGGER, *CALL_LOGGERS):
            logging.getLogger(name).filters.insert(0, _remove_text)


def _remove_text(record: logging.LogRecord) -> bool:
    """Replace the text of a failed call's line: within a call, errors of proxy and router quote it."""
    is_error = record.name in CALL_LOGGERS and record.levelno >= logging.ERROR
    in_a_call = is_error and call_outcome.running() is not None
    if in_a_call or str(record.msg).startswith(CALL_ERROR_PREFIX):
        errors = [*(record.args or ()), *(record.exc_info or ())]
        error = next((type(one).__name__ for one in errors if isinstance(one, BaseException)), "an error")
        call_id: object = getattr(record, "litellm_call_id", None)
        record.msg, record.args = "call %s failed: %s", (call_id, error)
        record.exc_info, record.exc_text = None, None
    return True


ERROR_LOG = LiteLLMPatch(
    name="error_log",
    install=_install_error_log,
    reason="A failed call is logged with the provider's text, which may repeat the prompt, and a traceback.",
    until="LiteLLM's redaction covers its own log lines.",
    tests=(
        "tests/stages/sidecar/test_provider_errors.py::test_a_failure_s_log_line_has_no_text_of_the_provider",
    ),
    after_start=True,
)

LOGGING_MODULE = "litellm.litellm_core_utils.litellm_logging"
TAGS_FIELD = "llm_proxy_tags"


def _install_trace_tags() -> None:
    """Patch the function that reads the tags of the logging payload; before the first call."""
    payload: Untyped = import_module(LOGGING_MODULE).StandardLoggingPayloadSetup

    def read_with_field(litellm_params: Untyped, proxy_server_request: Untyped) -> list[Any]:
        tags = as_list(as_object(as_object(litellm_params).get("metadata")).get(TAGS_FIELD))
        return [*tags, *read(litellm_params, proxy_server_request)]

    read = replace(payload, "get_request_tags", read_with_field)


TRACE_TAGS = LiteLLMPatch(
    name="trace_tags",
    install=_install_trace_tags,
    reason="LiteLLM reports to observers only those tags by which it may also choose deployments.",
    until="There is such a field.",
    tests=("tests/stages/sidecar/test_langfuse.py",),
)
