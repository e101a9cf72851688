"""
What streams.toml means: the vocabulary and the runtime.  A handler of your own imports from here, and nothing else.
"""

from streams.effects import Answer, Effects, Handler, Message, Metering, Output, Retold, Tally, Turn, Write, handler
from streams.errors import Bury, Retry

__all__ = [
    "Answer", "Bury", "Effects", "Handler", "Message", "Metering", "Output", "Retold", "Retry", "Tally", "Turn",
    "Write", "handler",
]  # fmt: skip
