"""Decrypts values of a LiteLLM proxy's database with LiteLLM's own code.

Run as a script by the environment's Python. Standard input: `{"keys": [...], "values": [...]}`; standard
output: a list, of each value its plain text, or null where no key decrypts it. Nothing else is printed.
"""

import json
import os
import sys
from importlib import import_module
from typing import Any

_MODULE = "litellm.proxy.common_utils.encrypt_decrypt_utils"


def main() -> None:
    """Read the request, write the answer."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_LOG"] = "CRITICAL"
    litellm: Any = import_module(_MODULE)  # only now: it reads the environment
    request: dict[str, list[str]] = json.load(sys.stdin)
    answer: list[str | None] = []
    for value in request["values"]:
        found = (litellm.decrypt_if_encrypted_with(value, key) for key in request["keys"])
        answer.append(next((plain for plain in found if plain is not None), None))
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
