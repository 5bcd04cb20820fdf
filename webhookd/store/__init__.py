"""What is remembered: SQLite, one writer with group commit, readers apart; the only room that speaks SQL."""
