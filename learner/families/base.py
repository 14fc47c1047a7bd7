"""What the shared-prefix engine must know of a family of models, and the parts that most families share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What the language model gets of one image."""

    tokens: Tensor  # (image tokens, hidden)
    runs: tuple[int, ...]  # placeholders of each unbroken run that the image stands for, e.g. one for each tile
    grid: Tensor | None = None  # (3,) patches in time, height, width, before merging; where positions depend on it
    deepstack: tuple[Tensor, ...] = ()  # each (image tokens, hidden)

    @property
    def size_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (self.tokens, *self.deepstack))


@dataclass
class EncoderOutputs(BaseModelOutputWithPooling):
    """The tower's outputs of several images in the form that `forward(mm_encoder_outputs=...)` takes."""

    deepstack_features: Any = None


class Family:
    """A text-only model; the vision-language families override what differs."""

    sees_images_both_ways = False
    """Whether the tokens of an image attend to the later ones of the same image."""

    def problem(self, config: Any) -> str | None:
        """Why a model of this family with this configuration cannot be trained, or None."""
        if getattr(config.get_text_config(), "final_logit_softcapping", None):
            return "its logits are soft-capped"
        return None

    def language_model(self, body: Any) -> Any:
        """The module whose attention is ours."""
        return body

    def image_token_id(self, config: Any) -> int | None:
        """The placeholder, or None when there are no images."""
        return None

    def encode(self, body: Any, to_pixels: Any, pictures: Sequence[Image.Image]) -> list[ImageFeatures]:
        """Run the frozen tower on what `to_pixels`, the image processor, makes of pictures. Called without gradient."""
        raise NotImplementedError

    def encoder_outputs(self, images: Sequence[ImageFeatures]) -> Mapping[str, Any]:
        """Keyword arguments that give `body` these images, in the order of their placeholders."""
        return {}

    def positions(self, body: Any, prompt: Tensor, images: Sequence[ImageFeatures]) -> Tensor:
        """Of a prompt (P,): (P,), or (3, P) with M-RoPE. Answers continue behind the largest."""
        return torch.arange(len(prompt))


class VisionFamily(Family):
    """One tower in `body`, placeholders by `config.image_token_id`, features by `get_image_features`."""

    def language_model(self, body: Any) -> Any:
        return body.language_model

    def image_token_id(self, config: Any) -> int | None:
        return int(config.image_token_id)


def hand_in(pooled: Any, deepstack: Any = None) -> Mapping[str, Any]:
    """Keyword arguments of `body` for the tower's outputs of several images, pooled as its family pools them."""
    return {"mm_encoder_outputs": {"image": EncoderOutputs(pooler_output=pooled, deepstack_features=deepstack)}}


def device_of(body: Any) -> torch.device:
    found: torch.device = next(body.parameters()).device
    return found


def fits(runs: Sequence[int], images: Sequence[ImageFeatures]) -> bool:
    """Whether unbroken runs of placeholders are those of the images; images without text between them share a run."""
    expected = iter([run for image in images for run in image.runs])
    for run in runs:
        left = run
        while left > 0:
            left -= next(expected, left + 1)
        if left < 0:
            return False
    return next(expected, None) is None
