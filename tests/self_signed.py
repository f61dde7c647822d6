"""Certificates of servers that no authority has signed."""

import subprocess
from pathlib import Path


def self_signed(folder: Path, *, days: int = 1) -> tuple[Path, Path]:
    """Creates a certificate for `localhost` that ends in some days; returns it and its key."""
    made, key = folder / f"{days}.pem", folder / f"{days}.key"
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(days), "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-out", str(made), "-keyout", str(key)]
    subprocess.run(["openssl", "req", *words, *names], check=True, capture_output=True)  # noqa: S607 -- any
    return made, key
