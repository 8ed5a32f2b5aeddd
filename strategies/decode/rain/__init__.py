"""RAIN: search over continuations, judged by the model itself."""

from heedful.strategies.decode.rain.rain import Rain

__all__ = ["Rain"]
