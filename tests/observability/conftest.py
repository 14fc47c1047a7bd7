"""The application's fixtures, for tests of what it tells about itself."""

from tests.api.conftest import each_stack, engine, open_stack, stack, store_url

__all__ = ["each_stack", "engine", "open_stack", "stack", "store_url"]
