"""From the bytes of a request to a `Call`: strict JSON, OpenAI's schema, field policy, model resolution."""
