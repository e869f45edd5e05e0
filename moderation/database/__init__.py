"""Postgres, the truth. Queries are functions that take a Session; the caller owns the transaction."""
