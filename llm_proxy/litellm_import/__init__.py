"""A LiteLLM proxy's database in; keys, policies and opening spend of ours, and a configuration file, out."""
