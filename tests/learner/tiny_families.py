"""A tiny model with random weights of every family, and the image processor that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    CLIPImageProcessor,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3TextConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
)

from tests.learner.tiny import IMAGE, VISION_END, VISION_START, VOCABULARY, image_processor, tiny_model

VIDEO = 63
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16}
WINDOW = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@dataclass(frozen=True, slots=True)
class Tiny:
    build: Callable[[], Any]
    processor: Callable[[], Any] | None = None
    """None: a text-only model."""
    runs: dict[str, tuple[int, ...]] | None = None
    """Runs of placeholders that each test picture stands for."""
    inputs: Callable[[torch.Tensor], dict[str, Any]] = lambda ids: {}
    """What the plain forward wants besides tokens and pixels."""
    nested: bool = False
    """The processor wants a list of images for each prompt."""


def squares(count: int) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(("small", "wide", "tall"), (count,))


def qwen2_5_vl() -> Any:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={**TEXT, "rope_parameters": rope},
            vision_config={
                "depth": 2,
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_heads": 2,
                "patch_size": 16,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 64,
                "fullatt_block_indexes": [1],
                "out_hidden_size": 32,
            },
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=VISION_START,
            vision_end_token_id=VISION_END,
        )
    )


def llava() -> Any:
    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config={"model_type": "llama", **TEXT},
            vision_config={"model_type": "clip_vision_model", **TOWER, "image_size": 32, "projection_dim": 16},
            image_token_index=IMAGE,
        )
    )


def idefics3() -> Any:
    return Idefics3ForConditionalGeneration(
        Idefics3Config(
            text_config={"model_type": "llama", **TEXT},
            vision_config={**TOWER, "image_size": 64},
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=0,
        )
    )


def smolvlm() -> Any:
    return SmolVLMForConditionalGeneration(
        SmolVLMConfig(
            text_config={"model_type": "llama", **TEXT},
            vision_config={**TOWER, "image_size": 64},
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=0,
        )
    )


def tiles(kind: Any) -> Any:
    return kind(size={"longest_edge": 128}, max_image_size={"longest_edge": 64}, do_image_splitting=True, **HALF)


def gemma3() -> Any:
    """The window is shorter than an image's run, so both rules meet."""
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={**TEXT, **WINDOW, "query_pre_attn_scalar": 8},
            vision_config={**TOWER, "image_size": 96},
            mm_tokens_per_image=9,
            image_token_index=IMAGE,
            boi_token_index=VISION_START,
            eoi_token_index=VISION_END,
        )
    )


def types(ids: torch.Tensor) -> torch.Tensor:
    return (ids == IMAGE).int()


TINY = {
    "qwen3_vl": Tiny(
        tiny_model,
        image_processor,
        {"small": (4,), "wide": (6,), "tall": (6,)},
        inputs=lambda ids: {"mm_token_type_ids": types(ids)},
    ),
    "qwen2_5_vl": Tiny(
        qwen2_5_vl,
        image_processor,
        {"small": (4,), "wide": (6,), "tall": (6,)},
        inputs=lambda ids: {"mm_token_type_ids": types(ids)},
    ),
    "llava": Tiny(
        llava,
        lambda: CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        squares(4),
    ),
    "idefics3": Tiny(
        idefics3,
        lambda: tiles(Idefics3ImageProcessor),
        {"small": (4,) * 5, "wide": (4,) * 5, "tall": (4,) * 5},
        nested=True,
    ),
    "smolvlm": Tiny(
        smolvlm,
        lambda: tiles(SmolVLMImageProcessor),
        {"small": (4,) * 5, "wide": (4,) * 5, "tall": (4,) * 5},
        nested=True,
    ),
    "gemma3": Tiny(
        gemma3,
        lambda: Gemma3ImageProcessor(size={"height": 96, "width": 96}, **HALF),
        squares(9),
        inputs=lambda ids: {"token_type_ids": types(ids)},
    ),
    "gemma3_text": Tiny(lambda: Gemma3ForCausalLM(Gemma3TextConfig(**TEXT, **WINDOW, query_pre_attn_scalar=8))),
    "llama": Tiny(lambda: LlamaForCausalLM(LlamaConfig(**TEXT))),
    "mistral": Tiny(lambda: MistralForCausalLM(MistralConfig(**TEXT, sliding_window=5))),
    "qwen2": Tiny(lambda: Qwen2ForCausalLM(Qwen2Config(**TEXT, **WINDOW, use_sliding_window=True))),
    "qwen3": Tiny(lambda: Qwen3ForCausalLM(Qwen3Config(**TEXT))),
}
