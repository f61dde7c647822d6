"""The gateway in the order a request walks it.

edge -> identity -> dialects -> admission -> upstream -> ledger -> edge, written once in `pipeline`.
Beside this path: `schema` (SQL), `sidecar` (what runs in LiteLLM's process), `stack` (everything on one
machine), `cli`. This module imports nothing, so that the sidecar's environment can import the package.
"""

__version__ = "0.1.0"
