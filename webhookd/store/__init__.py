"""The database: SQLite, one writer that commits in batches, separate readers; all SQL is here."""
