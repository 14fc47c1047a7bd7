"""Idefics3 and SmolVLM: an image is cut into tiles, plus the whole of it small; each tile is a run of placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from learner.families.base import ImageFeatures, VisionFamily, device_of, hand_in


class Idefics(VisionFamily):
    def language_model(self, body: Any) -> Any:
        return body.text_model

    def encode(self, body: Any, to_pixels: Any, pictures: Sequence[Image.Image]) -> list[ImageFeatures]:
        # One by one: images of a batch would be padded to the same number of tiles.
        return [self._encode(body, to_pixels, picture) for picture in pictures]

    def _encode(self, body: Any, to_pixels: Any, picture: Image.Image) -> ImageFeatures:
        inputs = to_pixels(images=[[picture]], return_tensors="pt")
        device = device_of(body)
        output = body.get_image_features(
            pixel_values=inputs["pixel_values"].to(device),
            pixel_attention_mask=inputs["pixel_attention_mask"].to(device),
            return_dict=True,
        )
        tiles = output.pooler_output  # (tiles, tokens, hidden)
        return ImageFeatures(tiles.flatten(0, 1), (tiles.shape[1],) * tiles.shape[0])

    def encoder_outputs(self, images: Sequence[ImageFeatures]) -> Mapping[str, Any]:
        return hand_in(torch.cat([image.tokens.view(len(image.runs), -1, image.tokens.shape[-1]) for image in images]))
