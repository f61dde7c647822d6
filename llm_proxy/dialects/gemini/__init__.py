"""Google's Gemini API: native where the provider speaks it, translated to chat completions elsewhere."""
