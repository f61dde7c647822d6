"""FastAPI routers, one module for each resource: its `router` returns the routes of its paths."""
