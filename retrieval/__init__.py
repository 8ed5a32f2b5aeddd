"""Retrieval: texts embedded, kept in durable stores, and found again by meaning under a filter."""
