"""A service account of Google's, made up, whose tokens the scripted provider gives out."""

import subprocess

from llm_proxy.stack.process_specs import sidecar_python

MAKE_KEY = """
import json, sys
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import rsa
key = rsa.generate_private_key(65537, 2048)
pem = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode()
account = {"type": "service_account", "client_email": "a@b.c", "token_uri": sys.argv[1], "private_key": pem}
print(json.dumps(account))
"""


def made(provider_url: str) -> str:
    """The account's file."""
    command = [str(sidecar_python()), "-c", MAKE_KEY, f"{provider_url}/token"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout
