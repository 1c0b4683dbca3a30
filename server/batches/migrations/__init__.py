"""Schema of the database as Alembic migrations; the server runs them when it starts."""
