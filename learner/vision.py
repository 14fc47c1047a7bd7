"""Images → features of the frozen vision tower, computed once and used by policy, reference and every epoch.

The image processor of the base model's directory turns bytes into pixel values; no text processor is involved.
Features live in memory under a byte budget, least recently used out first; what was dropped is computed again.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image, UnidentifiedImageError
from transformers import AutoImageProcessor

from learner.families import ImageFeatures, family_of
from learner.views import Sketch

IMAGES_PER_PASS: Final = 16


class UnreadableImage(Exception):
    """The bytes are not an image that Pillow can decode."""


class Vision:
    """The frozen tower with its cache. `read` gives an image's bytes by their sha256."""

    def __init__(self, model: Any, directory: Path, read: Callable[[str], bytes], budget_bytes: int) -> None:
        self._family = family_of(model.config)
        self._body = model.base_model
        self._directory = directory
        self._processor: Any = None
        self._read = read
        self._budget_bytes = budget_bytes
        self._cache: OrderedDict[str, ImageFeatures] = OrderedDict()
        self._size_bytes = 0
        self.sketches: dict[str, Sketch] = {}
        """Of every unchanged image that was loaded and not dropped."""

    def __len__(self) -> int:
        return len(self._cache)

    def features(self, sha256: str) -> ImageFeatures:
        """Raises `UnreadableImage`, and whatever `read` raises."""
        if sha256 not in self._cache:
            self.load([sha256])
        self._cache.move_to_end(sha256)
        return self._cache[sha256]

    def load(self, digests: Sequence[str]) -> None:
        """Compute the features of those that are missing, several images a pass."""
        missing = [digest for digest in dict.fromkeys(digests) if digest not in self._cache]
        for first in range(0, len(missing), IMAGES_PER_PASS):
            part = missing[first : first + IMAGES_PER_PASS]
            for digest, features in zip(part, self._encode([self._read(digest) for digest in part]), strict=True):
                self._cache[digest] = features
                self._size_bytes += features.size_bytes
                if ":" not in digest:
                    self.sketches[digest] = sketch(features)
        kept = set(digests[-1:])
        while self._size_bytes > self._budget_bytes and len(self._cache) > len(kept):
            self._size_bytes -= self._cache.popitem(last=False)[1].size_bytes

    def drop(self, sha256: str) -> None:
        self.sketches.pop(sha256, None)
        features = self._cache.pop(sha256, None)
        if features is not None:
            self._size_bytes -= features.size_bytes

    @torch.no_grad()
    def _encode(self, contents: Sequence[bytes]) -> list[ImageFeatures]:
        if self._processor is None:  # late: a model without images has none
            self._processor = AutoImageProcessor.from_pretrained(self._directory)  # type: ignore[no-untyped-call]
        return self._family.encode(self._body, self._processor, [_decode(content) for content in contents])


def sketch(features: ImageFeatures) -> Sketch:
    grid = () if features.grid is None else tuple(features.grid.tolist())
    return Sketch((*features.runs, -1, *grid), features.tokens.float().mean(0).cpu())


def _decode(content: bytes) -> Image.Image:
    """RGB as the engine makes it: transparency on white."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
                rgba = image.convert("RGBA")
                white = Image.new("RGB", rgba.size, (255, 255, 255))
                white.paste(rgba, mask=rgba.getchannel("A"))
                return white
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImage(type(error).__name__) from error
