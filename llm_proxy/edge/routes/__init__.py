"""FastAPI routers in, one file a noun: each module's `router` makes the routes of its paths."""
