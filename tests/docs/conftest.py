"""The whole application on a fake engine, as the tests of the API have it."""

from tests.api.conftest import engine, open_stack, stack

__all__ = ["engine", "open_stack", "stack"]
