"""Prompts as readable files: YAML front matter and a Jinja body, versioned by name."""

from heedful.prompts.library import Prompt, PromptError, Prompts, UnknownPrompt
from heedful.prompts.use import Use

__all__ = ["Prompt", "PromptError", "Prompts", "UnknownPrompt", "Use"]
