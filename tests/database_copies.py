"""Copies of a database, as pg_dump and pg_restore would make them."""

import asyncpg


async def copy_database(database_url: str, copy_url: str) -> None:
    """Makes a database at the second address as the first one is; ends the sessions of the first."""
    server, _, source = database_url.rpartition("/")
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", source
        )
        await connection.execute(f"CREATE DATABASE {copy_url.rpartition('/')[2]} TEMPLATE {source}")
    finally:
        await connection.close()
