"""The application's fixtures, for tests of what it tells about itself."""

from tests.api.conftest import engine, open_stack, stack

__all__ = ["engine", "open_stack", "stack"]
