"""Prints every setting and whether it is a secret, for the chart; into its `files/settings.json`."""

import json

from llm_proxy.setting_sources import PREFIX, is_secret
from llm_proxy.settings import Settings

KINDS = {
    f"{PREFIX}{name}".upper(): "secret" if is_secret(field) else "plain"
    for name, field in Settings.model_fields.items()
}

if __name__ == "__main__":
    print(json.dumps(KINDS, indent=1))
