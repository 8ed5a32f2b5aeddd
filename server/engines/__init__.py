"""Engines: what runs the model behind the `heedful.strategies.Engine` protocol."""
