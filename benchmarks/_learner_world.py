"""What both sides of the learner's benchmarks train on, on disk: a random model, an adapter, pictures, pairs, groups.

Models are Qwen3-VL with DeepStack, in one of the `SHAPES`. Texts are words of a made-up vocabulary, one token each, so
that text and token ids say the same to either side.
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
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

SPECIAL: Final = ("<pad>", "<end>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<other>")
PAD, END, VISION_START, VISION_END, IMAGE, VIDEO = range(6)
GROUP: Final = 8
"""Answers of a prompt in GRPO."""
RANK, ALPHA = 16, 32
TARGETS: Final = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
PLACEHOLDER: Final = "<|vision_start|> <|image_pad|> <|vision_end|>"


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model and of what it is trained on."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    mrope_section: list[int]
    tower_hidden: int
    tower_intermediate: int
    tower_layers: int
    tower_heads: int
    deepstack: list[int]
    pixels: int
    """Width and height of a picture; 32 x 32 of them cost a token."""
    question_tokens: int
    answer_tokens: int

    @property
    def image_tokens(self) -> int:
        return (self.pixels // 32) ** 2

    @property
    def layer_parameters(self) -> int:
        """Of the matrices of all decoder layers: what every token is multiplied with."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.key_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


SHAPES: Final = {
    # 26 million parameters, a picture of 256 tokens
    "small": Shape(8192, 384, 1152, 8, 6, 2, 64, [12, 10, 10], 256, 768, 6, 4, [1, 3], 512, 16, 32),
    # Qwen3-VL-2B-Instruct's configuration, a picture of 1,024 tokens
    "2b": Shape(151936, 2048, 6144, 28, 16, 8, 128, [24, 20, 20], 1024, 4096, 24, 16, [5, 11, 17], 1024, 32, 128),
    # for the test that a script runs
    "tiny": Shape(64, 32, 48, 2, 4, 2, 16, [4, 2, 2], 32, 48, 2, 4, [0], 64, 4, 5),
}


def build_model(shape: Shape, seed: int) -> Qwen3VLForConditionalGeneration:
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_heads,
            "head_dim": shape.head_size,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": shape.mrope_section,
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": PAD,
            "bos_token_id": None,
            "eos_token_id": END,
        },
        vision_config={
            "depth": shape.tower_layers,
            "hidden_size": shape.tower_hidden,
            "intermediate_size": shape.tower_intermediate,
            "num_heads": shape.tower_heads,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": shape.hidden,
            "num_position_embeddings": 1024,
            "deepstack_visual_indexes": shape.deepstack,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return Qwen3VLForConditionalGeneration(config).float().eval()


def build_processor(shape: Shape) -> Qwen3VLProcessor:
    words = [*SPECIAL, *(f"w{number}" for number in range(shape.vocabulary - len(SPECIAL)))]
    raw = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<other>"))
    raw.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<other>",
        additional_special_tokens=list(SPECIAL[2:6]),
        model_max_length=4096,
    )
    size = {"shortest_edge": shape.pixels**2, "longest_edge": shape.pixels**2}
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
    shape: Shape
    questions: list[list[int]]
    """One for each picture."""
    answers: list[list[list[int]]]
    """`GROUP` answers to each; DPO prefers the first to the second."""
    logged: Tensor  # (questions, GROUP, answer tokens): log-probabilities as an engine logged them
    rewards: Tensor  # (questions, GROUP)

    @property
    def model(self) -> Path:
        return self.directory / "model"

    def image(self, number: int) -> Path:
        return self.directory / f"{number}.png"

    def adapter(self) -> dict[str, Tensor]:
        return load_file(self.directory / "adapter.safetensors")

    def prompt(self, number: int) -> tuple[int, ...]:
        """Token ids with the placeholders expanded, as an engine logs them."""
        return (VISION_START, *[IMAGE] * self.shape.image_tokens, VISION_END, *self.questions[number])

    def prompt_text(self, number: int) -> str:
        return f"{PLACEHOLDER} {words(self.questions[number])}"


def words(ids: list[int]) -> str:
    return " ".join(f"w{number - len(SPECIAL)}" for number in ids)


def lora() -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS)


def make(directory: Path, name: str, questions: int, device: str = "cpu", seed: int = 0) -> World:
    """Write everything. Both halves of the adapter are non-zero, so the policy differs from its reference."""
    shape = SHAPES[name]
    model = build_model(shape, seed)
    model.save_pretrained(directory / "model")
    build_processor(shape).save_pretrained(directory / "model")
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Any:
        return torch.randint(len(SPECIAL), shape.vocabulary, size, generator=generator).tolist()

    data = {
        "shape": name,
        "questions": draw(questions, shape.question_tokens),
        "answers": draw(questions, GROUP, shape.answer_tokens),
    }
    (directory / "data.json").write_text(json.dumps(data))
    for number in range(questions):
        coarse = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(coarse.numpy()).resize((shape.pixels, shape.pixels)).save(directory / f"{number}.png")
    policy = get_peft_model(model, lora())
    for key, parameter in policy.named_parameters():
        if "lora_B" in key:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    save_file(get_peft_model_state_dict(policy), directory / "adapter.safetensors")
    rewards = torch.rand(questions, GROUP, generator=generator)
    # An engine's arithmetic is a little different: too little for any importance ratio to be clipped, which is where
    # the sides differ (TRL clips against what was logged, we against the policy at the round's beginning).
    noise = torch.randn(questions, GROUP, shape.answer_tokens, generator=generator) * 0.03
    blank = World(directory, shape, data["questions"], data["answers"], noise, rewards)
    logged = _logprobs(policy, blank, device) + noise
    save_file({"logged": logged, "rewards": rewards}, directory / "data.safetensors")
    return read(directory)


def read(directory: Path) -> World:
    data = json.loads((directory / "data.json").read_text())
    tensors = load_file(directory / "data.safetensors")
    shape = SHAPES[data["shape"]]
    return World(directory, shape, data["questions"], data["answers"], tensors["logged"], tensors["rewards"])


def dtype_on(device: str) -> torch.dtype:
    """What the learner trains in."""
    return torch.bfloat16 if device == "cuda" else torch.float32


@torch.no_grad()
def _logprobs(policy: Any, world: World, device: str) -> Tensor:
    """By the plainest forward there is, one prompt at a time."""
    model = policy.to(device, dtype_on(device)).eval()
    to_pixels = build_processor(world.shape).image_processor
    result = []
    for number, answers in enumerate(world.answers):
        ids = torch.tensor([[*world.prompt(number), *answer] for answer in answers], device=device)
        with Image.open(world.image(number)) as image:
            pixels = to_pixels(images=[image.convert("RGB")], return_tensors="pt").to(device)
        output = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == IMAGE).int(),
            pixel_values=pixels["pixel_values"].repeat(GROUP, 1),
            image_grid_thw=pixels["image_grid_thw"].repeat(GROUP, 1),
            logits_to_keep=world.shape.answer_tokens + 1,
        )
        goals = torch.tensor(answers, device=device)[..., None]
        result.append(torch.log_softmax(output.logits[:, :-1].float(), -1).gather(-1, goals)[..., 0].cpu())
    return torch.stack(result)
