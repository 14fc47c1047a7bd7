"""A real, tiny CLIP with random weights in a real worker process."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from reward.types import Candidate, Image, Message, Prompt
from server.config.scorers import ClipConfig
from server.scorers.clip import ClipScorer, ClipWorker
from server.scorers.errors import ScorerError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Written as transformers writes it: weights, tokenizer, image processor."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

    directory = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz.,!?"
    tokens = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt"))
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **small,
            "vocab_size": len(tokens),
            "eos_token_id": len(tokens) - 1,
            "max_position_embeddings": 77,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(directory)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(directory)
    yield str(directory)


def picture(colour: str) -> Image:
    buffer = io.BytesIO()
    Pillow.new("RGB", (40, 30), colour).save(buffer, format="PNG")
    return Image(colour.ljust(64, "0"), "image/png", buffer.getvalue())


def about(*images: Image) -> Prompt:
    return Prompt((Message("user", (*images, "what is it?")),))


def said(*texts: str) -> list[Candidate]:
    return [Candidate(place, "a", text, (), (), "stop") for place, text in enumerate(texts)]


async def test_likeness_per_answer_and_per_sentence(model: str) -> None:
    """Cosines, the same as transformers gives; the worst sentence; shared batches; a restart; broken images."""
    config = ClipConfig(model=model)
    worker = ClipWorker(config, timeout_s=60)
    whole = ClipScorer(config.model_copy(update={"unit": "answer"}), worker)
    worst, mean = ClipScorer(config, worker), ClipScorer(config.model_copy(update={"unit": "sentence_mean"}), worker)
    red, blue = picture("red"), picture("blue")
    try:
        one, two = await whole.score(about(red), said("a cup.", "a plate."))
        assert one == pytest.approx(expected(model, red, "a cup."), abs=1e-5)
        assert one != two
        assert one is not None
        assert two is not None
        assert await worst.score(about(red), said("a cup. a plate.", "")) == [pytest.approx(min(one, two)), None]
        assert await mean.score(about(red), said("a cup. a plate.")) == [pytest.approx((one + two) / 2)]
        (other,) = await whole.score(about(blue), said("a cup."))
        assert other is not None
        assert await whole.score(about(red, blue), said("a cup.")) == [pytest.approx(max(one, other))]
        assert await whole.score(Prompt((Message("user", ("hi",)),)), said("a", "b")) == [0.0, 0.0]
        broken = Image("b" * 64, "image/png", b"no image")
        results = await asyncio.gather(
            whole.score(about(broken), said("a cup.")),
            *(whole.score(about(red), said("a cup.")) for _ in range(20)),
            return_exceptions=True,
        )
        assert isinstance(results[0], ScorerError)
        assert results[1:] == [[pytest.approx(one)]] * 20
        assert await whole.score(about(red), said("word " * 500)) != [None], "what is too long is cut"
    finally:
        await worker.close()
    assert worker.pid is None


def expected(model: str, image: Image, text: str) -> float:
    import torch
    from transformers import AutoProcessor, CLIPModel

    processor: Any = AutoProcessor.from_pretrained(model, backend="pil")
    inputs = processor(text=[text], images=[Pillow.open(io.BytesIO(image.data))], return_tensors="pt", padding=True)
    with torch.no_grad():
        output = CLIPModel.from_pretrained(model)(**inputs)
    return float((output.image_embeds @ output.text_embeds.T)[0, 0])


async def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    """An error for who asks, not a hang."""
    worker = ClipWorker(ClipConfig(model=str(tmp_path)), timeout_s=5)
    try:
        with pytest.raises(ScorerError, match="the worker died"):
            await worker.compare([b""], ["a"])
    finally:
        await worker.close()
