"""
A model behind an OpenAI-compatible server.

Not in this release: what is here says so, in one line, before anything else starts.
"""

from __future__ import annotations

from typing import NoReturn

from streams.errors import ConfigurationError
from streams.settings import Settings


def open_engine(settings: Settings) -> NoReturn:
    """Raises ConfigurationError: a MODEL_URL that was ignored would answer with another model than was asked for."""
    raise ConfigurationError(
        "environment: MODEL_URL is set, but remote models are not in this release; unset it and name a model in MODEL"
    )
