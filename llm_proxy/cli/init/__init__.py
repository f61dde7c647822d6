"""Choices in, a folder that `llm-proxy up` and Compose start from out."""
