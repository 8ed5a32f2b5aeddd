"""The option `--alignment` of what measures a server: a name, names in a row, steps as JSON, or none at all."""

from __future__ import annotations

import json
from typing import Any

from heedful.server.config import ConfigError

NO_ALIGNMENT = "none"
"""The field is not sent at all, for endpoints that know no alignments."""


def field_of(option: str) -> Any:
    """What goes into the body field `alignment`; None: no such field. Raises ConfigError for what is no JSON."""
    if option == NO_ALIGNMENT:
        return None
    if option.lstrip().startswith("["):
        try:
            return json.loads(option)
        except json.JSONDecodeError as error:
            raise ConfigError(f"--alignment: is no JSON: {error}") from error
    return option
