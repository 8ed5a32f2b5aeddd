"""The bundled models and their preparation."""
