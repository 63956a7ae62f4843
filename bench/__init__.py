"""Benchmarks, each a command. The environment that the stores read when they are imported is that of the tests."""

import tests.conftest  # noqa: F401
