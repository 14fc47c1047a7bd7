"""Gemma 3: sliding windows in most layers, and the tokens of an image see each other both ways.

With pan and scan on, an image has crops besides the whole; each is a run of placeholders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from learner.families.base import Family, ImageFeatures, VisionFamily, device_of, hand_in


class Gemma3Text(Family):
    def problem(self, config: Any) -> str | None:
        if config.get_text_config().use_bidirectional_attention:
            return "all its tokens see each other both ways, so it cannot generate"
        return super().problem(config)


class Gemma3(VisionFamily):
    sees_images_both_ways = True

    def encode(self, body: Any, to_pixels: Any, pictures: Sequence[Image.Image]) -> list[ImageFeatures]:
        inputs = to_pixels(images=list(pictures), return_tensors="pt")
        output = body.get_image_features(pixel_values=inputs["pixel_values"].to(device_of(body)), return_dict=True)
        counts = [1 + int(crops) for crops in inputs["num_crops"]]
        return [
            ImageFeatures(views.flatten(0, 1).clone(), (views.shape[1],) * views.shape[0])
            for views in torch.split(output.pooler_output, counts)
        ]

    def encoder_outputs(self, images: Sequence[ImageFeatures]) -> Mapping[str, Any]:
        return hand_in(torch.cat([image.tokens.view(len(image.runs), -1, image.tokens.shape[-1]) for image in images]))
