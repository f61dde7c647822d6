"""Anthropic's Messages API: native where the provider speaks it, translated to chat completions elsewhere."""
