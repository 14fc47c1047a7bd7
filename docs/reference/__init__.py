"""Pages that are written from the code whenever the site is built, so that they cannot lie: API, settings, commands.
`hook.py` gives them to MkDocs; nothing here is imported by the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from docs.reference import api, commands, configuration

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "reference/api.md": api.page,
    "reference/configuration.md": configuration.page,
    "reference/commands.md": commands.page,
}
"""By their path in the site."""
