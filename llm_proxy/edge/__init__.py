"""HTTP in, HTTP out: the only room that knows FastAPI.

The front sends hot doors (`serve`) and everything else (`rest`) their way; `doors` is the table of both.
"""
