"""Whether a model takes images, as far as its files tell."""

from __future__ import annotations

import json
from pathlib import Path

PROCESSORS = ("processor_config.json", "preprocessor_config.json")
"""Only models that take more than text bring one of these."""
SIGNS = ("vision", "visual", "image", "img", "vq_config")
"""Parts of the names of settings that only such models have."""


def takes_images(model: str) -> bool:
    """False only where the files of the model are at hand and nothing in them speaks of images."""
    directory = Path(model)
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    if any((directory / name).is_file() for name in PROCESSORS) or not isinstance(config, dict):
        return True
    return any(sign in key.lower() for key in config for sign in SIGNS)
