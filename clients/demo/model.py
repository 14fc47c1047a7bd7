"""The demo model's architecture and its processor: a whole Qwen3-VL, made by hand and very small.

It is the real architecture (vision tower, DeepStack, M-RoPE, grouped-query attention), so an engine
serves it exactly as it serves the 8B; only the numbers are small. `save_model` writes the directory
that both transformers and vLLM load.
"""

# transformers leaves many of its functions without annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from clients.demo.tokenizer import (
    CHAT_TEMPLATE,
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    VOCABULARY_SIZE,
)

PIXELS: Final = 96 * 96
"""Every picture is brought to this size and costs 9 tokens: one for each cell of the scenes' 3 x 3 grid.

Up to 128 x 128 (16 tokens, which straddle the cells) was tried: after 1,000 steps such a model named 48% of the
objects, where this one names 79% after 500.
"""
PATCH_PX: Final = 16
MERGE: Final = 2
MAX_POSITIONS: Final = 2048


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of a special token."""
    return int(tokenizer.get_vocab()[token])


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """The configuration; its token ids come from the tokenizer."""
    return Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY_SIZE,
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": MAX_POSITIONS,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 6,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 192,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=token_id(tokenizer, IMAGE_PAD),
        video_token_id=token_id(tokenizer, VIDEO_PAD),
        vision_start_token_id=token_id(tokenizer, VISION_START),
        vision_end_token_id=token_id(tokenizer, VISION_END),
        tie_word_embeddings=True,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Tokenizer and image processor together, as `AutoProcessor` would load them."""
    pixels = {"shortest_edge": PIXELS, "longest_edge": PIXELS}
    layout = {
        "patch_size": PATCH_PX,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": pixels,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**layout),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**layout),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3VLForConditionalGeneration:
    """Freshly initialised float32 weights; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model: Qwen3VLForConditionalGeneration = Qwen3VLForConditionalGeneration(build_config(tokenizer)).float()
    return model


def save_model(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write everything that a loader needs into `directory`: configuration, processor, tokenizer, weights."""
    directory.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0
    )
    model.save_pretrained(directory)
    build_processor(tokenizer).save_pretrained(directory)
