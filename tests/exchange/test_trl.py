"""The export loads with `datasets` and trains in TRL's own trainers, images included, without a change to either."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from clients.cli import app
from tests.api.conftest import data_url
from tests.engine_fixture import model_directory
from tests.exchange.conftest import Site

pytestmark = pytest.mark.slow

OURS = {"source", "weight", "annotator", "group_id", "generation", "split"}
COLOURS = ("red", "blue", "green")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched, and caches go with the test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def taught(site: Site) -> Site:
    """Three prompts with an image and one without, each with a choice, an up and a down."""
    conversations: list[Any] = [
        [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": data_url(size=(96, 96), colour=colour)}},
                    {"type": "text", "text": "Describe the image."},
                ],
            },
        ]
        for colour in COLOURS
    ]
    for messages in ([{"role": "user", "content": "Describe a circle."}], *conversations):
        reply = site.chat(messages=messages, best_of=4, plumbline={"compare": True})
        first, second = reply["plumbline"]["compare"]
        site.post("/v1/preferences", {"completion_id": reply["id"], "chosen": second, "rejected": first})
        site.post("/v1/feedback", {"completion_id": reply["id"], "candidate_id": first, "rating": "down"})
        site.post("/v1/feedback", {"completion_id": reply["id"], "candidate_id": second, "rating": "up"})
    return site


def load(site: Site, directory: Path, kind: str, *options: str) -> Any:
    """As the documentation says: the command's file, through `load_dataset("json")`."""
    from datasets import load_dataset

    file = directory / f"{kind}.jsonl"
    done = CliRunner().invoke(app, ["export", str(file), "--kind", kind, "--url", site.url, *options])
    assert done.exit_code == 0, done.output
    return load_dataset("json", data_files=str(file), split="train", cache_dir=str(directory / "cache"))


def decoded(data: Any) -> Any:
    """The column of `data:` URLs, or of files, as the images themselves."""
    from datasets import Image as ImageFeature
    from datasets import List

    return data.cast_column("images", List(ImageFeature()))


def trained(trainer: type, config: type, data: Any, directory: Path, processor: Any) -> list[dict[str, Any]]:
    from transformers import AutoModelForImageTextToText

    settings = config(
        output_dir=str(directory / "out"),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-4,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    model = AutoModelForImageTextToText.from_pretrained(model_directory())
    before = model.model.language_model.layers[0].mlp.up_proj.weight.detach().clone()
    run = trainer(model=model, args=settings, train_dataset=data, processing_class=processor)
    run.train()
    after = run.model.model.language_model.layers[0].mlp.up_proj.weight
    assert not before.equal(after)
    return [entry for entry in run.state.log_history if "loss" in entry]


def processor_of() -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(model_directory())


@pytest.mark.parametrize("images", ["embed", "files"])
def test_pairs_train_in_dpo(taught: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str) -> None:
    """DPOTrainer makes two steps on a model that sees the images; our columns disturb nothing."""
    from trl import DPOConfig, DPOTrainer

    monkeypatch.chdir(tmp_path)  # where images/ lies
    data = load(taught, tmp_path, "pairs", "--images", images)
    assert set(data.column_names) > OURS | {"prompt", "chosen", "rejected", "images"}
    data = decoded(data)
    assert [len(row["images"]) for row in data] == [0, 1, 1, 1]
    assert [row["images"][0].getpixel((0, 0)) for row in data.select([1, 2])] == [(255, 0, 0), (0, 0, 255)]
    losses = trained(DPOTrainer, DPOConfig, data, tmp_path, processor_of())
    assert len(losses) == 2
    assert all(0 < entry["loss"] < 2 for entry in losses)


def test_thumbs_train_in_kto(taught: Site, tmp_path: Path) -> None:
    """KTOTrainer makes two steps on desirable and undesirable answers."""
    from trl import KTOConfig, KTOTrainer

    data = decoded(load(taught, tmp_path, "unpaired"))
    assert sorted(data["label"]) == [False] * 4 + [True] * 4
    assert len(trained(KTOTrainer, KTOConfig, data, tmp_path, processor_of())) == 2


def test_embedded_images_need_not_even_be_decoded(taught: Site, tmp_path: Path) -> None:
    """The `data:` URLs go through the trainer to an image processor, which reads them itself."""
    from transformers import AutoImageProcessor
    from trl import DPOConfig, DPOTrainer

    processor = processor_of()
    # The Pillow backend: torchvision's own decoder is missing from some CPU builds.
    processor.image_processor = AutoImageProcessor.from_pretrained(model_directory(), backend="pil")
    data = load(taught, tmp_path, "pairs")
    assert len(trained(DPOTrainer, DPOConfig, data, tmp_path, processor)) == 2


def test_the_bytes_are_those_the_engine_got(taught: Site) -> None:
    """An exported image is the stored one, byte for byte."""
    embedded = [row["images"] for row in taught.export() if row["images"]]
    named = [row["images"] for row in taught.export(images="reference") if row["images"]]
    assert len(embedded) == len(COLOURS)
    for (url,), (name,) in zip(embedded, named, strict=True):
        data = base64.b64decode(url.partition(",")[2])
        assert data == taught.run(taught.services.blobs.get(Path(name).stem))
        assert Image.open(io.BytesIO(data)).size == (96, 96)
