"""The process that runs a CLIP or SigLIP: `python clip_worker.py MODEL DEVICE THREADS`, a frame in, a frame out.

A frame is four bytes of length (big-endian), a JSON object of that length, and the bytes of the images, whose lengths
the object tells. Asked: `{"jobs": [{"images": [length, ...], "texts": [...]}]}`. Answered: `{"jobs": [[number, ...] or
null]}`: for each text the largest cosine between it and one of the job's images; null for a job whose images cannot be
read. The first frame is `{"ready": true}`. Ends when its input does.

Started by `clip` alone, as a file: nothing of the project is imported, and nothing of the project imports it. So the
server's process stays without model code.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import signal
import struct
import sys
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

KEPT_IMAGES = 256
"""Images whose embeddings are kept: candidates of one prompt, and of the next turn, share them."""
_PR_SET_PDEATHSIG = 1


class Model:
    def __init__(self, name: str, device: str) -> None:
        import torch  # noqa: PLC0415 - nobody else may pay for it
        from transformers import AutoModel, AutoProcessor  # noqa: PLC0415

        is_local = Path(name).is_dir()
        self._torch = torch
        self._device = device
        self._model = AutoModel.from_pretrained(name, local_files_only=is_local).to(device).eval()
        processors: Any = AutoProcessor  # transformers leaves it without annotations
        self._processor = processors.from_pretrained(name, local_files_only=is_local, backend="pil")
        self._kept: OrderedDict[bytes, Any] = OrderedDict()

    def compare(self, jobs: list[tuple[list[bytes], list[str]]]) -> list[list[float] | None]:
        """All jobs' images in one batch, and all their texts in another."""
        keys = [[sha256(image).digest() for image in images] for images, _ in jobs]
        known = {key: self._kept[key] for job in keys for key in job if key in self._kept}
        self._embed_images({key: image for job, (images, _) in zip(keys, jobs, strict=True)
                            for key, image in zip(job, images, strict=True) if key not in known}, known)  # fmt: skip
        texts = list(dict.fromkeys(text for _, wanted in jobs for text in wanted))
        embedded = dict(zip(texts, self._embed_texts(texts), strict=True))
        found: list[list[float] | None] = []
        for job, (_, wanted) in zip(keys, jobs, strict=True):
            if not job or any(known[key] is None for key in job):
                found.append(None)
                continue
            images = self._torch.stack([known[key] for key in job])
            found.append([float((images @ embedded[text]).max()) for text in wanted])
        return found

    def _embed_images(self, images: dict[bytes, bytes], known: dict[bytes, Any]) -> None:
        from PIL import Image  # noqa: PLC0415

        opened = {}
        for key, data in images.items():
            try:
                opened[key] = Image.open(io.BytesIO(data)).convert("RGB")
            except (OSError, ValueError, SyntaxError):
                known[key] = None
        if not opened:
            return
        inputs = self._processor.image_processor(images=list(opened.values()), return_tensors="pt")
        with self._torch.inference_mode():
            rows = _unit(self._model.get_image_features(pixel_values=inputs["pixel_values"].to(self._device)))
        for key, row in zip(opened, rows.cpu(), strict=True):
            known[key] = self._kept[key] = row
        while len(self._kept) > KEPT_IMAGES:
            self._kept.popitem(last=False)

    def _embed_texts(self, texts: list[str]) -> Any:
        # SigLIP was trained on texts padded to their whole length.
        padding = "max_length" if "siglip" in self._model.config.model_type else True
        limit = self._model.config.text_config.max_position_embeddings
        inputs = self._processor.tokenizer(
            texts, padding=padding, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self._device)
        with self._torch.inference_mode():
            return _unit(self._model.get_text_features(**inputs)).cpu()


def _unit(features: Any) -> Any:
    rows = getattr(features, "pooler_output", features).float()
    return rows / rows.norm(dim=-1, keepdim=True)


def read_frame(source: BinaryIO) -> list[tuple[list[bytes], list[str]]] | None:
    """None at the input's end."""
    start = source.read(4)
    if len(start) < 4:
        return None
    asked = json.loads(source.read(struct.unpack(">I", start)[0]))
    return [([source.read(length) for length in job["images"]], job["texts"]) for job in asked["jobs"]]


def write_frame(target: BinaryIO, content: dict[str, Any]) -> None:
    encoded = json.dumps(content).encode()
    target.write(struct.pack(">I", len(encoded)) + encoded)
    target.flush()


def main(arguments: list[str]) -> int:
    name, device, threads = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not stand between the frames
    os.environ |= {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    model = Model(name, device)
    write_frame(target, {"ready": True})
    while (jobs := read_frame(source)) is not None:
        write_frame(target, {"jobs": model.compare(jobs)})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
