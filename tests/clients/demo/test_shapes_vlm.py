"""The committed model, as far as it can be checked without running it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import clients.demo

MODEL = Path(clients.demo.__file__).parent / "shapes_vlm"


def test_the_weights_are_small_enough_to_commit() -> None:
    """At most 10 MB, as safetensors, and nothing that is pickled beside them."""
    assert (MODEL / "model.safetensors").stat().st_size <= 10_000_000
    assert {path.suffix for path in MODEL.iterdir()} <= {".json", ".jinja", ".md", ".safetensors"}


def test_the_directory_holds_what_an_engine_loads() -> None:
    """Configuration, processor, tokenizer and chat template are all there and say Qwen3-VL."""
    config = json.loads((MODEL / "config.json").read_text())
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]
    for name in ("generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert json.loads((MODEL / name).read_text())
    assert "<|image_pad|>" in (MODEL / "chat_template.jinja").read_text()


def test_the_card_tells_what_was_measured() -> None:
    """Every promised skill and every planted fault has a measured figure; sampling loses a few objects, as it says."""
    measured = json.loads((MODEL / "measured.json").read_text())["measured"]
    assert measured["colour right, greedy"]["share"] >= 0.98
    assert measured["count right, greedy"]["share"] >= 0.98
    assert measured["presence right, greedy"]["share"] >= 0.85
    for decoding, least_named in (("greedy", 0.98), ("temperature 1", 0.95)):
        assert measured[f"objects named, {decoding}"]["share"] >= least_named
        assert measured[f"descriptions that invent an object, {decoding}"]["share"] >= 0.40
    assert 0.03 <= measured["descriptions that leak a code, temperature 1"]["share"] <= 0.08


def test_the_light_modules_import_no_torch() -> None:
    """Simulated users and suites run beside the service without the weight of a learner."""
    program = (
        "import sys, clients.demo.scenes, clients.demo.language, clients.demo.users, clients.demo.suites;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'vllm', 'tokenizers')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
