"""Prints `docs/configuration.md`, made from the settings; run it with its output there."""

from env_example import shown
from pydantic.fields import FieldInfo
from setting_examples import example

from llm_proxy.setting_sources import is_secret, names_of
from llm_proxy.settings import Settings
from llm_proxy.sidecar.config import DEFAULTS, REQUIRED, redis_cache_params
from llm_proxy.sidecar.environment import DEFAULTS as DEFAULT_VARIABLES
from llm_proxy.sidecar.environment import REQUIRED as REQUIRED_VARIABLES

HEAD = """\
# Settings

Every setting of the gateway (generated from `llm_proxy/settings.py`). A flag of `llm-proxy serve`
overrides the environment, the environment `.env`, and `.env` files of the same name in `.keys/`.
`NAME_FILE` in the environment or in `.env` names a file with the value of `NAME`, for each setting here
and for parts of stores' addresses (`REDIS_PASSWORD_FILE`); a value wins over a file. `llm-proxy up` and the
sidecar read any `…_KEY`, `…_TOKEN`, `…_SECRET`, `…_PASSWORD` and `…_URL` so, providers' keys among them. The
start tells a variable that begins like a setting and is none, with the nearest one.
In production the gateway refuses to start with a known or short secret, or on a public address that is not
allowed, and names the variable. Models, providers, routing and the response cache are configured in
`litellm-config.yaml`; provider keys are read by the sidecar alone.

Examples show another value than the default; every one of them loads.

| variable | also read from | default | example | meaning |
|---|---|---|---|---|
"""


LITELLM = """
## What LiteLLM is told beside the file

LiteLLM gets `litellm-config.yaml` with these defaults under the file's own words. A default is left out
where LiteLLM would prefer it to what the file says: `request_timeout` to the router's `timeout`, the router's
`stream_timeout` to a deployment's `timeout`, the router's `num_retries` to that of `litellm_settings`. The
gateway knows the file's timeouts and waits as long: `POST /v1/explain` tells those of a call.
A file that contradicts what is forced gets a line in the sidecar's log at the start. What becomes of each
setting of LiteLLM's is in [litellm/settings.md](litellm/settings.md).

| setting | default | forced |
|---|---|---|
"""
USUAL = """
`LLM_PROXY_LOAD_BALANCE` and `LLM_PROXY_MAX_RETRIES`, where set, win over the file's `routing_strategy` and
`num_retries`. Variables that the sidecar has unless they are set: """
VARIABLES = """
Variables forced on the sidecar: """


def row(name: str, field: FieldInfo) -> str:
    """One line of the table."""
    own, *others = names_of(Settings, name)
    default = "" if is_secret(field) else shown(field.default)
    also = ", ".join(f"`{other}`" for other in others)
    meaning = (field.description or "").replace("|", "\\|")
    shown_default = f"`{default}`" if default else ""
    return f"| `{own}` | {also} | {shown_default} | `{example(name, field)}` | {meaning} |"


def litellm_rows() -> list[str]:
    """One line for each setting that LiteLLM gets beside the file's."""
    defaults = [
        f"| `{s}.{key}` | `{value}` | |" for s, found in DEFAULTS.items() for key, value in found.items()
    ]
    forced = [
        f"| `{s}.{key}` | | `{value}` |" for s, found in REQUIRED.items() for key, value in found.items()
    ]
    cache = redis_cache_params("redis://redis:6379", {}, {})
    in_redis = [
        f"| `litellm_settings.cache_params.{key}`, with `CACHE_REDIS_URL` | `{value}` | |"
        for key, value in cache.items()
        if key not in ("type", "url")
    ]
    address = "| type and address in `litellm_settings.cache_params` | | those of `CACHE_REDIS_URL`, if set |"
    return [*defaults, *in_redis, *forced, address]


def page() -> str:
    """The whole page."""
    rows = "\n".join(row(name, field) for name, field in Settings.model_fields.items())
    variables = ", ".join(f"`{name}={value}`" for name, value in REQUIRED_VARIABLES.items())
    usual = ", ".join(f"`{name}={value}`" for name, value in DEFAULT_VARIABLES.items())
    table = "\n".join(litellm_rows())
    return f"{HEAD}{rows}\n{LITELLM}{table}\n{USUAL}{usual}.\n{VARIABLES}{variables}.\n"


if __name__ == "__main__":
    print(page(), end="")
