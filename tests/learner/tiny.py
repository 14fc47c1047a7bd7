"""A Qwen3-VL with random weights, small enough for a test, and its directory without any tokenizer."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from transformers import GenerationConfig, Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration

VOCABULARY = 64
EOS = 1
VISION_START, IMAGE, VISION_END = 60, 61, 62
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def tiny_config() -> Qwen3VLConfig:
    return Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": EOS,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=IMAGE,
        video_token_id=63,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )


def tiny_model(seed: int = 0) -> Qwen3VLForConditionalGeneration:
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(tiny_config()).float().eval()
    for parameter in model.parameters():  # larger than the initialisation, so that answers differ clearly
        parameter.data.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return model


def image_processor() -> Qwen2VLImageProcessor:
    return Qwen2VLImageProcessor(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 64 * 64, "longest_edge": 96 * 96},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def save_tiny(directory: Path) -> Path:
    model = tiny_model()
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=0)
    model.save_pretrained(directory)
    image_processor().save_pretrained(directory)
    return directory


def png(seed: int, width: int = 64, height: int = 64) -> bytes:
    """A picture of noise; 64 x 64 pixels cost 4 image tokens, 96 x 64 cost 6."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def image_prompt(*counts: int, words: tuple[int, ...] = (5, 6, 7)) -> tuple[int, ...]:
    """A prompt with one block of placeholders for each count."""
    blocks = [token for count in counts for token in (VISION_START, *[IMAGE] * count, VISION_END)]
    return (2, *blocks, *words)
