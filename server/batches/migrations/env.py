"""Alembic's entry point: migrates the connection that server/batches/database.py opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
