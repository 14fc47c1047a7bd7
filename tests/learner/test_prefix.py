"""The shared-prefix forward against the obvious one: a separate row for every answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from learner.prefix import PrefixModel, Row, padded, split_rows
from learner.vision import ImageFeatures, Vision
from tests.learner.tiny import IMAGE, TARGETS, image_processor, image_prompt, png, tiny_model

PICTURES = {"small": png(1), "wide": png(2, 96, 64), "tall": png(3, 64, 96)}


def lora(model: nn.Module, seed: int = 3, targets: str = TARGETS) -> nn.Module:
    """Adapters whose both halves are non-zero, so that every gradient is."""
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return wrapped


def double(model: nn.Module) -> nn.Module:
    """Float64 throughout: transformers' own RMSNorm rounds to float32 on the way."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                exact = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon)
                exact.weight = child.weight
                setattr(parent, name, exact)
    return model.double()


def naive(model: nn.Module, rows: list[tuple[Row, list[str]]]) -> list[Tensor]:
    """One ordinary forward for each answer, pixels included, positions left to the model."""
    processor = image_processor()
    from learner.vision import _decode

    result = []
    for row, pictures in rows:
        for answer in row.answers:
            ids = torch.tensor([[*row.prompt, *answer]])
            inputs = {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE).int()}
            if pictures:
                inputs |= dict(processor(images=[_decode(PICTURES[name]) for name in pictures], return_tensors="pt"))
            logits = model(**inputs).logits[0, len(row.prompt) - 1 : -1]
            result.append(torch.log_softmax(logits, -1).gather(-1, torch.tensor(answer)[:, None])[:, 0])
    return result


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processor")
    image_processor().save_pretrained(path)
    return path


def make_rows(vision: Vision) -> list[tuple[Row, list[str]]]:
    def features(*names: str) -> tuple[ImageFeatures, ...]:
        return tuple(vision.features(name) for name in names)

    return [
        (Row(image_prompt(4), features("small"), ((8, 9, 10, 1), (11,), (8, 9, 12, 13, 14))), ["small"]),
        (Row(image_prompt(6, 6), features("wide", "tall"), ((20, 21), (22, 1))), ["wide", "tall"]),
        (Row((2, 30, 31, 32, 33, 34), (), ((35, 36, 37), (35, 38))), []),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_probabilities_and_lora_gradients_equal_those_of_separate_rows(dtype: torch.dtype, directory: Path) -> None:
    """Several groups of unlike length, one, two and no images, one-token answers: nothing differs but the cost."""
    base = tiny_model()
    model = lora(double(base) if dtype == torch.float64 else base)
    if dtype == torch.float64:
        model = model.double()
    vision = Vision(model.get_base_model().model, directory, PICTURES.__getitem__, 2**30)
    rows = make_rows(vision)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-12}
    gradients = []
    values = []
    for compute in (lambda: PrefixModel(model).logprobs([row for row, _ in rows]), lambda: naive(model, rows)):
        model.zero_grad()
        answers = compute()
        weights = [torch.linspace(-1, 2, len(answer), dtype=dtype) * (i + 1) for i, answer in enumerate(answers)]
        sum((answer * weight).sum() for answer, weight in zip(answers, weights, strict=True)).backward()
        values.append(torch.cat(answers).detach())
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(values[0], values[1], **tolerance)
    assert len(gradients[0]) == 28 and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = gradients[1][name].abs().max()
        assert scale > 0
        torch.testing.assert_close(gradient / scale, gradients[1][name] / scale, **tolerance)


def test_chunked_logits_change_nothing(directory: Path) -> None:
    """Log-probabilities and gradients are the same when the logits are made in many small pieces."""
    model = lora(tiny_model())
    vision = Vision(model.get_base_model().model, directory, PICTURES.__getitem__, 2**30)
    rows = [row for row, _ in make_rows(vision)]
    whole, pieces = PrefixModel(model), PrefixModel(model, logits_per_chunk=64 * 3)
    first = torch.cat(whole.logprobs(rows))
    (grad_first,) = torch.autograd.grad(first.sum(), [next(p for p in model.parameters() if p.requires_grad)])
    second = torch.cat(pieces.logprobs(rows))
    (grad_second,) = torch.autograd.grad(second.sum(), [next(p for p in model.parameters() if p.requires_grad)])
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(grad_first, grad_second)


def test_an_adapted_head_learns_too(directory: Path) -> None:
    """A head that is not frozen takes the longer way, and its gradients are those of separate rows as well."""
    model = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=r".*(q_proj|lm_head)", init_lora_weights=False))
    vision = Vision(model.get_base_model().model, directory, PICTURES.__getitem__, 2**30)
    rows = make_rows(vision)
    heads = [parameter for name, parameter in model.named_parameters() if "lm_head.lora_" in name]
    assert len(heads) == 2
    engine = PrefixModel(model, logits_per_chunk=64 * 3)
    found = torch.autograd.grad(torch.cat(engine.logprobs([row for row, _ in rows])).sum(), heads)
    expected = torch.autograd.grad(torch.cat(naive(model, rows)).sum(), heads)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_features_are_dropped_under_the_budget_and_come_back_equal(directory: Path) -> None:
    """A cache smaller than the images costs time, not correctness."""
    model = tiny_model()
    read: list[str] = []

    def reader(name: str) -> bytes:
        read.append(name)
        return PICTURES[name]

    vision = Vision(model.model, directory, reader, budget_bytes=1)
    first = vision.features("small").tokens
    vision.features("wide")
    assert len(vision) == 1
    assert torch.equal(vision.features("small").tokens, first)
    assert read == ["small", "wide", "small"]


def test_rows_are_split_by_tokens() -> None:
    """A micro-batch is bounded by the sum of its rows; a row that is too long stands alone."""
    assert split_rows([10, 10, 10], 20) == [[0, 1], [2]]
    assert split_rows([5, 30, 5], 20) == [[0], [1], [2]]
    assert split_rows([1, 7, 8, 4], 16) == [[0, 1, 2], [3]]


def test_answers_are_padded_with_a_mask() -> None:
    """Padding counts for nothing."""
    values, mask = padded([torch.tensor([-1.0, -2.0]), torch.tensor([-3.0])])
    assert values.tolist() == [[-1.0, -2.0], [-3.0, 0.0]]
    assert mask.tolist() == [[True, True], [True, False]]
