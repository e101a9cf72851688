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
        f"environment: MODEL_URL = {settings.model_url!r}: remote models are not in this release; "
        "unset MODEL_URL and name a model in MODEL"
    )
