"""Judges of answers: trained classifiers that run anywhere, and models of any OpenAI-compatible endpoint."""
