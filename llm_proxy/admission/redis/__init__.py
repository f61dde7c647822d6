"""Limits counted in a Redis, Valkey or Redis Cluster that all replicas share."""
