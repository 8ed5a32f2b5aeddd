"""Generate, verify, correct: until the verifiers pass an answer or the rounds are used up."""

from heedful.strategies.decode.refine.refine import Refine

__all__ = ["Refine"]
