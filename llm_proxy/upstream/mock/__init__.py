"""Mock mode: answers without a sidecar."""
