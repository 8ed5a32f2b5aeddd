"""Strategies that rewrite what the model will see."""
