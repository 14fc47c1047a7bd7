"""Every family of models: the shared prefix against a plain forward of every answer by itself, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GenerationConfig

from learner.errors import LearnerError
from learner.families import FAMILIES, ImageFeatures, family_of, fits
from learner.model import NO_IMAGES, Base
from learner.prefix import PrefixModel, Row
from learner.settings import Settings
from learner.vision import Vision, _decode
from tests.learner.tiny import VISION_END, VISION_START, png
from tests.learner.tiny_families import IMAGE, TINY, Tiny

PICTURES = {"small": png(1), "wide": png(2, 96, 64), "tall": png(3, 64, 96)}
TARGETS = Settings().target_modules
"""The default fits every family."""


class ExactNorm(nn.Module):
    """RMSNorm without transformers' detour through float32. Gemma's weights count from one."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self._offset = float("Gemma" in type(norm).__name__)
        self._eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._eps) * (self._offset + self.weight)


def exact(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, ExactNorm(child))
    return model.double()


def policy(tiny: Tiny) -> Any:
    """Weights larger than the initialisation, adapters with both halves non-zero: answers and gradients differ."""
    torch.manual_seed(0)
    model = tiny.build().eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    wrapped = get_peft_model(exact(model), LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return wrapped.double().eval()


def prompt(tiny: Tiny, *pictures: str) -> tuple[int, ...]:
    """Each run of placeholders between markers, as the families' processors write them."""
    runs = [run for name in pictures for run in (tiny.runs or {})[name]]
    blocks = [token for run in runs for token in (VISION_START, *[IMAGE] * run, VISION_END)]
    return (2, 3, *blocks, 5, 6, 7, 4)


def groups(tiny: Tiny) -> list[tuple[tuple[int, ...], tuple[str, ...], tuple[tuple[int, ...], ...]]]:
    text = ((2, *range(30, 42)), (), ((35, 36, 37), (35, 38), (9, 8, 7, 6, 5, 4, 3, 12)))
    if tiny.processor is None:
        return [text, ((2, 40), (), ((35,), (36, 37)))]
    return [
        (prompt(tiny, "small"), ("small",), ((8, 9, 10, 1), (11,), (8, 9, 12, 13, 14, 15, 16))),
        (prompt(tiny, "wide", "tall"), ("wide", "tall"), ((20, 21), (22, 1))),
        text,
    ]


def naive(model: Any, tiny: Tiny) -> list[Tensor]:
    result = []
    for tokens, pictures, answers in groups(tiny):
        for answer in answers:
            ids = torch.tensor([[*tokens, *answer]])
            inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **tiny.inputs(ids)}
            if pictures and tiny.processor is not None:
                images = [_decode(PICTURES[name]) for name in pictures]
                pixels = dict(tiny.processor()(images=[images] if tiny.nested else images, return_tensors="pt"))
                pixels.pop("num_crops", None)
                inputs |= {k: v.double() if v.is_floating_point() else v for k, v in pixels.items()}
            logits = model(**inputs).logits[0, len(tokens) - 1 : -1]
            result.append(torch.log_softmax(logits, -1).gather(-1, torch.tensor(answer)[:, None])[:, 0])
    return result


def backward(model: Any, answers: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    weights = [torch.linspace(-1, 2, len(answer)).double() * (i + 1) for i, answer in enumerate(answers)]
    sum((answer * weight).sum() for answer, weight in zip(answers, weights, strict=True)).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return torch.cat(answers).detach(), gradients


def shared(model: Any, tiny: Tiny, directory: Path, **options: Any) -> list[Tensor]:
    def features(names: tuple[str, ...]) -> tuple[ImageFeatures, ...]:
        return tuple(vision.features(name) for name in names)

    vision = Vision(model.get_base_model(), directory, PICTURES.__getitem__, 2**30)
    rows = [Row(tokens, features(pictures), answers) for tokens, pictures, answers in groups(tiny)]
    return PrefixModel(model, **options).logprobs(rows)


@pytest.fixture(params=sorted(TINY))
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Tiny:
    found = TINY[request.param]
    if found.processor is not None:
        found.processor().save_pretrained(tmp_path)
    return found


def test_every_family_has_a_tiny_model() -> None:
    """A family in the table is compared below."""
    assert TINY.keys() == FAMILIES.keys()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_log_probabilities_and_gradients_equal_those_of_separate_rows(
    tiny: Tiny, tmp_path: Path, checkpointing: bool
) -> None:
    """No, one and two images, one-token answers, windows shorter than prompts: 1e-9 of the value in float64."""
    plain = policy(tiny)
    values, gradients = backward(plain, naive(plain, tiny))
    model = policy(tiny)
    found, found_gradients = backward(model, shared(model, tiny, tmp_path, checkpointing=checkpointing))
    torch.testing.assert_close(found, values, rtol=1e-9, atol=1e-12)
    assert found_gradients.keys() == gradients.keys()
    layers = plain.config.get_text_config().num_hidden_layers
    assert len(gradients) == layers * 7 * 2
    for name, gradient in gradients.items():
        scale = gradient.abs().max()
        assert scale > 0
        torch.testing.assert_close(found_gradients[name] / scale, gradient / scale, rtol=1e-9, atol=1e-9)


def test_bfloat16_is_near(tiny: Tiny, tmp_path: Path) -> None:
    """Half precision works for every family and stays as near as its eight bits allow."""
    model = policy(tiny)
    with torch.no_grad():
        exact_values = torch.cat(shared(model, tiny, tmp_path))
        near = torch.cat(shared(model.bfloat16(), tiny, tmp_path)).double()
    assert (near - exact_values).abs().max() < 0.25


def test_images_say_which_placeholders_they_stand_for(tiny: Tiny, tmp_path: Path) -> None:
    """The learner's own count of image tokens, run by run: what a group's prompt is held against."""
    vision = Vision(policy(tiny).get_base_model(), tmp_path, PICTURES.__getitem__, 2**30)
    for name, runs in (tiny.runs or {}).items():
        assert vision.features(name).runs == runs
        assert sum(runs) == len(vision.features(name).tokens)


@pytest.mark.parametrize(("name", "placeholder"), [("llama", NO_IMAGES), ("smolvlm", IMAGE)])
def test_a_base_is_loaded_as_what_it_is(name: str, placeholder: int, tmp_path: Path) -> None:
    """Text-only models have no placeholder, so that a group with images is refused; others name theirs."""
    model = TINY[name].build()
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    model.save_pretrained(tmp_path)
    base = Base(tmp_path, "cpu")
    assert base.image_token_id == placeholder
    (values,) = PrefixModel(base.model).logprobs([Row((2, 3), (), ((4, 5, 1),))])
    assert values.shape == (3,)


def test_an_unknown_family_is_refused_with_the_reason() -> None:
    """A model that might see something else than in a separate row is never trained silently."""

    class Config:
        model_type = "other"

    with pytest.raises(LearnerError, match="'other' cannot be trained; these can: gemma3"):
        family_of(Config())
    config = TINY["gemma3_text"].build().config
    config.final_logit_softcapping = 30.0
    with pytest.raises(LearnerError, match="soft-capped"):
        family_of(config)


def test_runs_of_placeholders_are_held_against_the_images() -> None:
    """Tiles apart, images without text between them, and everything that does not match."""

    def image(*runs: int) -> ImageFeatures:
        return ImageFeatures(torch.zeros(sum(runs), 1), runs)

    assert fits([4, 4, 4], [image(4, 4), image(4)])
    assert fits([8, 4], [image(4), image(4), image(4)])
    assert fits([], [])
    assert not fits([4], [image(4), image(4)])
    assert not fits([4, 4], [image(4)])
    assert not fits([6, 2], [image(4), image(4)])
