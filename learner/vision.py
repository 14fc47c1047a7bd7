"""Images → features of the frozen vision tower, computed once and used by policy, reference and every epoch.

The image processor of the base model's directory turns bytes into pixel values; no text processor is involved.
Features live in memory under a byte budget, least recently used out first; what was dropped is computed again.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from transformers import AutoImageProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

IMAGES_PER_PASS: Final = 16


class UnreadableImage(Exception):
    """The bytes are not an image that Pillow can decode."""


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What the language model gets of one image."""

    grid: Tensor  # (3,) patches in time, height, width, before merging
    tokens: Tensor  # (image tokens, hidden)
    deepstack: tuple[Tensor, ...]  # each (image tokens, hidden); empty for models without DeepStack

    @property
    def size_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (self.tokens, *self.deepstack))


@dataclass
class EncoderOutputs(BaseModelOutputWithPooling):
    """The tower's outputs of several images in the form that `forward(mm_encoder_outputs=...)` takes."""

    deepstack_features: Any = None


def encoder_outputs(images: Sequence[ImageFeatures]) -> dict[str, EncoderOutputs]:
    layers = zip(*(image.deepstack for image in images), strict=True)
    outputs = EncoderOutputs(
        pooler_output=tuple(image.tokens for image in images),  # type: ignore[arg-type] # as the tower gives it
        deepstack_features=[list(layer) for layer in layers],
    )
    return {"image": outputs}


class Vision:
    """The frozen tower with its cache. `read` gives an image's bytes by their sha256."""

    def __init__(self, model: Any, directory: Path, read: Callable[[str], bytes], budget_bytes: int) -> None:
        self._model = model
        self._processor = AutoImageProcessor.from_pretrained(directory)  # type: ignore[no-untyped-call]
        self._read = read
        self._budget_bytes = budget_bytes
        self._cache: OrderedDict[str, ImageFeatures] = OrderedDict()
        self._size_bytes = 0

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
        kept = set(digests[-1:])
        while self._size_bytes > self._budget_bytes and len(self._cache) > len(kept):
            self._size_bytes -= self._cache.popitem(last=False)[1].size_bytes

    def drop(self, sha256: str) -> None:
        features = self._cache.pop(sha256, None)
        if features is not None:
            self._size_bytes -= features.size_bytes

    @torch.no_grad()
    def _encode(self, contents: Sequence[bytes]) -> list[ImageFeatures]:
        inputs = self._processor(images=[_decode(content) for content in contents], return_tensors="pt")
        grids = inputs["image_grid_thw"]
        device = next(self._model.parameters()).device
        output = self._model.get_image_features(
            pixel_values=inputs["pixel_values"].to(device), image_grid_thw=grids.to(device), return_dict=True
        )
        deepstack = getattr(output, "deepstack_features", None) or []
        # Cloned: a slice would keep the whole pass alive behind the cache's back.
        return [
            ImageFeatures(grids[i], output.pooler_output[i].clone(), tuple(layer[i].clone() for layer in deepstack))
            for i in range(len(contents))
        ]


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
