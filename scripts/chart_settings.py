"""Prints every setting and whether it is a secret, for the chart; into its `files/settings.json`."""

import json
from typing import get_args

from pydantic import SecretStr

from llm_proxy.setting_sources import PREFIX
from llm_proxy.settings import Settings

KINDS = {
    f"{PREFIX}{name}".upper(): "secret"
    if SecretStr in (field.annotation, *get_args(field.annotation))
    else "plain"
    for name, field in Settings.model_fields.items()
}

if __name__ == "__main__":
    print(json.dumps(KINDS, indent=1))
