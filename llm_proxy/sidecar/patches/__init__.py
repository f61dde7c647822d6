"""Changes to LiteLLM in memory: one file a subject, each patch with its reason and the day it can go."""
