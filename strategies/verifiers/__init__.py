"""Verifiers: what finds fault with an answer. Strategies that refine or choose ask a panel of them."""

from heedful.strategies.verifiers.base import Verdict, Verifier

__all__ = ["Verdict", "Verifier"]
