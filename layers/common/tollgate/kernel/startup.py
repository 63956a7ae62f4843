"""The start of a function: what it imports stays until it ends, and is not looked through for garbage.

A function imports this first, which pyproject.toml has the formatter see to, and calls `started` when it has imported
and made all that it needs for its requests.
"""

import gc

__all__ = ["started"]

gc.disable()


def started() -> None:
    """Look for garbage from now on, in what is made from now on."""
    gc.freeze()
    gc.enable()
