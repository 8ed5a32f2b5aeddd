"""Strategies that turn a context into the answer."""
