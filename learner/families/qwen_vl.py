"""Qwen2.5-VL and Qwen3-VL: patches of any grid, M-RoPE, and with Qwen3 DeepStack (features added in early layers)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from learner.families.base import ImageFeatures, VisionFamily, device_of, hand_in


class QwenVl(VisionFamily):
    def encode(self, body: Any, to_pixels: Any, pictures: Sequence[Image.Image]) -> list[ImageFeatures]:
        inputs = to_pixels(images=list(pictures), return_tensors="pt")
        grids, device = inputs["image_grid_thw"], device_of(body)
        output = body.get_image_features(
            pixel_values=inputs["pixel_values"].to(device), image_grid_thw=grids.to(device), return_dict=True
        )
        deepstack = getattr(output, "deepstack_features", None) or []
        # Cloned: a slice would keep the whole pass alive behind the cache's back.
        return [
            ImageFeatures(tokens.clone(), (len(tokens),), grids[i], tuple(layer[i].clone() for layer in deepstack))
            for i, tokens in enumerate(output.pooler_output)
        ]

    def encoder_outputs(self, images: Sequence[ImageFeatures]) -> Mapping[str, Any]:
        layers = zip(*(image.deepstack for image in images), strict=True)
        return hand_in(tuple(image.tokens for image in images), [list(layer) for layer in layers])

    def positions(self, body: Any, prompt: Tensor, images: Sequence[ImageFeatures]) -> Tensor:
        is_image = (prompt == body.config.image_token_id).int()
        grids = torch.stack([image.grid for image in images if image.grid is not None]) if images else None
        start: Tensor = body.get_rope_index(prompt[None], mm_token_type_ids=is_image[None], image_grid_thw=grids)[0]
        return start[:, 0]
