"""What both sides of `benchmarks.learner` train on: a random model, an adapter, pictures, pairs and groups, on disk.

The model is a Qwen3-VL of 26 million parameters with DeepStack; a picture of 512 x 512 pixels costs 256 tokens. Texts
are words of a made-up vocabulary, one token each, so that text and token ids say the same to either side.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

VOCABULARY: Final = 8192
SPECIAL: Final = ("<pad>", "<end>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<other>")
PAD, END, VISION_START, VISION_END, IMAGE, VIDEO = range(6)
PIXELS: Final = 512
IMAGE_TOKENS: Final = 256
QUESTION_TOKENS: Final = 16
ANSWER_TOKENS: Final = 32
GROUP: Final = 8
"""Answers of a prompt in GRPO."""
RANK, ALPHA = 16, 32
TARGETS: Final = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
PLACEHOLDER: Final = "<|vision_start|> <|image_pad|> <|vision_end|>"


def build_model(seed: int) -> Qwen3VLForConditionalGeneration:
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 384,
            "intermediate_size": 1152,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": PAD,
            "bos_token_id": None,
            "eos_token_id": END,
        },
        vision_config={
            "depth": 6,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_heads": 4,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 384,
            "num_position_embeddings": 1024,
            "deepstack_visual_indexes": [1, 3],
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return Qwen3VLForConditionalGeneration(config).float().eval()


def build_processor() -> Qwen3VLProcessor:
    words = [*SPECIAL, *(f"w{number}" for number in range(VOCABULARY - len(SPECIAL)))]
    raw = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<other>"))
    raw.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<other>",
        additional_special_tokens=list(SPECIAL[2:6]),
        model_max_length=2048,
    )
    size = {"shortest_edge": PIXELS**2, "longest_edge": PIXELS**2}
    layout = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**layout),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**layout),
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )


@dataclass(frozen=True, slots=True)
class World:
    """The files of a run, read again by every process."""

    directory: Path
    questions: list[list[int]]
    """One for each picture."""
    answers: list[list[list[int]]]
    """`GROUP` answers to each; DPO prefers the first to the second."""
    old_logprobs: Tensor  # (questions, GROUP, ANSWER_TOKENS) of the sampling policy
    advantages: Tensor  # (questions, GROUP)

    @property
    def model(self) -> Path:
        return self.directory / "model"

    def image(self, number: int) -> Path:
        return self.directory / f"{number}.png"

    def adapter(self) -> dict[str, Tensor]:
        return load_file(self.directory / "adapter.safetensors")

    def prompt(self, number: int) -> tuple[int, ...]:
        """Token ids with the placeholders expanded, as an engine logs them."""
        return (VISION_START, *[IMAGE] * IMAGE_TOKENS, VISION_END, *self.questions[number])

    def prompt_text(self, number: int) -> str:
        return f"{PLACEHOLDER} {words(self.questions[number])}"


def words(ids: list[int]) -> str:
    return " ".join(f"w{number - len(SPECIAL)}" for number in ids)


def lora() -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS)


def make(directory: Path, questions: int, seed: int = 0) -> World:
    """Write everything. Both halves of the adapter are non-zero, so the policy differs from its reference."""
    model = build_model(seed)
    model.save_pretrained(directory / "model")
    build_processor().save_pretrained(directory / "model")
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Any:
        return torch.randint(len(SPECIAL), VOCABULARY, shape, generator=generator).tolist()

    data = {"questions": draw(questions, QUESTION_TOKENS), "answers": draw(questions, GROUP, ANSWER_TOKENS)}
    (directory / "data.json").write_text(json.dumps(data))
    for number in range(questions):
        coarse = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(coarse.numpy()).resize((PIXELS, PIXELS)).save(directory / f"{number}.png")
    policy = get_peft_model(model, lora())
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    save_file(get_peft_model_state_dict(policy), directory / "adapter.safetensors")
    rewards = torch.rand(questions, GROUP, generator=generator)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    # Logged log-probabilities near those of the base, so that some importance ratios are clipped and most are not.
    noise = torch.randn(questions, GROUP, ANSWER_TOKENS, generator=generator) * 0.1
    blank = World(directory, data["questions"], data["answers"], noise, advantages)
    save_file({"old_logprobs": _base_logprobs(blank) + noise, "advantages": advantages}, directory / "data.safetensors")
    return read(directory)


def read(directory: Path) -> World:
    data = json.loads((directory / "data.json").read_text())
    tensors = load_file(directory / "data.safetensors")
    return World(directory, data["questions"], data["answers"], tensors["old_logprobs"], tensors["advantages"])


@torch.no_grad()
def _base_logprobs(world: World) -> Tensor:
    """By the plainest forward there is, one prompt at a time."""
    model: Any = AutoModelForImageTextToText.from_pretrained(world.model, dtype=torch.float32).eval()
    processor = build_processor().image_processor
    result = []
    for number, answers in enumerate(world.answers):
        ids = torch.tensor([[*world.prompt(number), *answer] for answer in answers])
        with Image.open(world.image(number)) as image:
            pixels = processor(images=[image.convert("RGB")], return_tensors="pt")
        output = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == IMAGE).int(),
            pixel_values=pixels["pixel_values"].repeat(GROUP, 1),
            image_grid_thw=pixels["image_grid_thw"].repeat(GROUP, 1),
            logits_to_keep=ANSWER_TOKENS + 1,
        )
        goals = torch.tensor(answers)[..., None]
        result.append(torch.log_softmax(output.logits[:, :-1].float(), -1).gather(-1, goals)[..., 0])
    return torch.stack(result)
