"""LLaVA 1.5: every image is resized to one square and costs the same number of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from learner.families.base import ImageFeatures, VisionFamily, device_of, hand_in


class Llava(VisionFamily):
    def problem(self, config: Any) -> str | None:
        if config.vision_config.model_type == "pixtral":
            return "its Pixtral tower takes images of any size, which is not done here"
        return super().problem(config)

    def encode(self, body: Any, to_pixels: Any, pictures: Sequence[Image.Image]) -> list[ImageFeatures]:
        pixels = to_pixels(images=list(pictures), return_tensors="pt")["pixel_values"].to(device_of(body))
        output = body.get_image_features(pixel_values=pixels, return_dict=True)
        return [ImageFeatures(tokens.clone(), (len(tokens),)) for tokens in output.pooler_output]

    def encoder_outputs(self, images: Sequence[ImageFeatures]) -> Mapping[str, Any]:
        return hand_in([image.tokens for image in images])
