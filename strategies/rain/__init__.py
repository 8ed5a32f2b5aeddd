"""RAIN: search over continuations, judged by the model itself."""

from heedful.strategies.rain.rain import Rain

__all__ = ["Rain"]
