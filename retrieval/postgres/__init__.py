"""Stores in PostgreSQL with pgvector: what any number of servers read and write at once."""
