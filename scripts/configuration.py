"""Prints `docs/configuration.md`, made from the settings; run it with its output there."""

from typing import get_args

from env_example import names_of, shown
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from llm_proxy.settings import Settings

HEAD = """\
# Configuration

Every setting of the gateway (generated from `llm_proxy/settings.py`). A flag of `llm-proxy serve`
overrides the environment, the environment `.env`, and `.env` files of the same name in `.keys/`.
In production the gateway refuses to start with a known or short secret, or on a public address that is not
allowed, and names the variable. Models, providers, routing and the response cache are configured in
`litellm-config.yaml`; provider keys are read by the sidecar alone.

| variable | also read from | default | meaning |
|---|---|---|---|
"""


def is_secret(field: FieldInfo) -> bool:
    """Whether the value is kept out of sight."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


def row(name: str, field: FieldInfo) -> str:
    """One line of the table."""
    own, *others = names_of(name, field)
    default = "" if is_secret(field) else shown(field.default)
    also = ", ".join(f"`{other}`" for other in others)
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{own}` | {also} | {f'`{default}`' if default else ''} | {meaning} |"


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(row(name, field) for name, field in Settings.model_fields.items()) + "\n"


if __name__ == "__main__":
    print(page(), end="")
