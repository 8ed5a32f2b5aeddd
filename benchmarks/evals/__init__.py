"""Measurements against a running server: answers, likelihoods, judges, and the tables made of them."""
