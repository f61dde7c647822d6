"""OpenAI's Responses: a body in, a native or a chat call out; the answer back, whole or in events."""
