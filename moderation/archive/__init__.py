"""Old cases outside the database: written to objects, read back, or erased."""
