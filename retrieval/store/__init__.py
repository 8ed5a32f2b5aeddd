"""Stores of norms and demonstrations: durable, live, searched."""
