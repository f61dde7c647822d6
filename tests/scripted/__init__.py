"""The scripted provider's parts: what a call asks for (`script`), how each family words it."""
