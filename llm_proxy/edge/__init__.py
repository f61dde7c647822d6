"""HTTP in, HTTP out: the only package that imports FastAPI."""
