"""
The cycle collector of a process that serves.

By default it looks at every 700 new objects, and every so often at all there are: with a model's libraries loaded that
was a fifth of a worker's time.  What a message makes forms no cycles and is freed as it is let go; cycles come from
what goes wrong (a traceback and its frames), which can lie a while.
"""

from __future__ import annotations

import gc

_NEW, _YOUNG, _OLD = 50_000, 20, 20
"""Objects made before the youngest are looked at; how often that is done before the next older ones are."""


def keep_what_is_loaded() -> None:
    """To be called once all is loaded and made: none of that is looked at again, and what comes more seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW, _YOUNG, _OLD)
