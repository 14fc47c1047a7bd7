"""A reward model from pairs: it learns what was preferred, and the exported model says what the learner measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3VLForConditionalGeneration

from learner.examples import Limits, Wanted, prepare
from learner.model import Base, Policy
from learner.reward_bt import parser
from learner.reward_model import RewardModel, Schedule, bradley_terry, train
from learner.reward_training import build
from learner.settings import Settings
from learner.vision import Vision, _decode
from tests.learner.fake_server import FakeServer, make_group
from tests.learner.tiny import EOS, IMAGE, TARGETS, image_processor

ENDING = (EOS, 3)


def test_bradley_terry_by_hand() -> None:
    """Weighted mean of −log σ at margins 0 and 2."""
    found = bradley_terry(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0]))
    assert float(found) == pytest.approx((math.log(2) + 3 * math.log(1 + math.exp(-2))) / 4, rel=1e-6)


def test_the_exported_model_gives_the_learners_rewards(server: FakeServer, base_dir: Path, tmp_path: Path) -> None:
    """Merged weights and the head, by an ordinary forward pass over each conversation with its pixels."""
    base = Base(base_dir, "cpu")
    limits = Limits(server.base_digest, base.vocabulary, base.max_positions, base.image_token_id)
    groups = [make_group(number, server.base_digest, server) for number in (0, 1, 3, 4)]
    found = [prepare(group, limits, Wanted()).example for group in groups]
    examples = [one for one in found if one is not None]
    vision = Vision(base.model, base_dir, server.images.__getitem__, 2**30)
    model = RewardModel(Policy.fresh(base, Settings(rank=4, target_modules=TARGETS), 0), vision, ENDING)
    losses: list[float] = []
    schedule = Schedule(epochs=20, peak_learning_rate=1e-2, batch_groups=2)
    train(model, examples, schedule, lambda step, steps, loss: losses.append(loss))
    assert len(losses) == 40 and losses[0] == pytest.approx(math.log(2)) and losses[-1] < 0.1
    assert model.accuracy(examples) == 1.0
    with torch.no_grad():
        rewards = model.rewards(examples).tolist()
    model.save(tmp_path / "rm", base_dir)

    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    assert (config["architectures"], config["num_labels"]) == (["Qwen3VLForSequenceClassification"], 1)
    tensors = load_file(tmp_path / "rm" / "model.safetensors")
    assert tensors["score.weight"].shape == (1, 32) and not any("lora" in name for name in tensors)
    plain = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "rm", dtype=torch.float32).eval()
    expected = []
    for example in examples:
        for answer in example.answers:
            text = answer.token_ids[:-1] if answer.token_ids[-1] == EOS else answer.token_ids
            ids = torch.tensor([[*example.prompt, *text, *ENDING]])
            pictures = [_decode(server.images[image]) for image in example.images]
            inputs = dict(image_processor()(images=pictures, return_tensors="pt"))
            states = plain.model(input_ids=ids, mm_token_type_ids=(ids == IMAGE).int(), **inputs).last_hidden_state
            expected.append(float(states[0, -1] @ tensors["score.weight"][0]))
    assert rewards == pytest.approx(expected, abs=1e-3)


def test_the_command_reads_the_feed_and_refuses_to_overwrite(
    server: FakeServer, base_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pairs alone, a broken image left out, some prompts kept back to measure by."""
    for number in range(20, 50):
        server.tell(make_group(number, server.base_digest, server))
    server.tell(make_group(60, server.base_digest, server, images=["0" * 64]))
    out = tmp_path / "rm"
    asked = ["--server", "http://x", "--out", str(out), "--state", str(tmp_path / "s"), "--ending", "1,3"]
    given = parser().parse_args([*asked, "--epochs", "1", "--device", "cpu"])
    assert given.ending == (1, 3)
    accuracy = build(server.client(), given)
    assert 0 <= accuracy <= 1
    assert (out / "model.safetensors").exists() and (out / "preprocessor_config.json").exists()
    from learner.errors import LearnerError

    with pytest.raises(LearnerError, match="already"):
        build(server.client(), given)


def test_a_prompts_lot_is_always_the_same(server: FakeServer) -> None:
    """So the same prompt is always on the same side; about one in ten is below .1."""
    limits = Limits("0" * 64, 64, 512, IMAGE)
    found = [prepare(make_group(number, "0" * 64, server), limits, Wanted()).example for number in range(200)]
    lots: dict[object, float] = {}
    for one in found:
        assert one is not None
        assert lots.setdefault((one.prompt, one.images), one.lot) == one.lot
    assert 0 < sum(lot < 0.1 for lot in lots.values()) < len(lots) / 3
