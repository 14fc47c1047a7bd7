"""Integrity of uploaded adapters: rows 62 and 63 of the bad inputs."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.adapters.base_model import BaseModel
from server.adapters.files import CONFIG, TENSORS, Checked, check_config, check_files
from server.adapters.safetensors import MalformedFile, read_header
from server.config import LORA_TARGET_MODULES
from server.errors import BadRequest
from tests.server.adapters.support import (
    MODULE,
    adapter_bytes,
    config_bytes,
    floats,
    safetensors,
    tensor_name,
    with_header,
)

A, B = tensor_name("A"), tensor_name("B")


def check(directory: Path, tensors: bytes, config: bytes | None = None, base: BaseModel | None = None) -> Checked:
    (directory / CONFIG).write_bytes(config if config is not None else config_bytes())
    (directory / TENSORS).write_bytes(tensors)
    return check_files(directory, tensors_sha256="f" * 64, max_lora_rank=4, lora_modules=LORA_TARGET_MODULES, base=base)


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def pair(**changes: tuple[str, list[int], bytes]) -> bytes:
    tensors = {A: ("F32", [2, 6], floats(12)), B: ("F32", [4, 2], floats(8))}
    return safetensors({**tensors, **{{"a": A, "b": B}.get(name, name): value for name, value in changes.items()}})


HEADERS = {
    "claims 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "claims more than the file": struct.pack("<Q", 1000) + b"{}",
    "is shorter than a length": b"\x01\x02",
    "is not JSON": with_header(b"{'a'}", b""),
    "is a list": with_header([], b""),
    "is UTF-16": with_header("{}".encode("utf-16"), b""),
    "begins with a byte order mark": with_header(b"\xef\xbb\xbf{}", b""),
    "begins with a space": with_header(b" {}", b""),
    "is not UTF-8": with_header(b'{"\xff": 1}', b""),
    "has an offset beyond 64 bits": with_header({A: entry([2, 6], 0, 2**64 + 48)}, floats(12)),
    "has offsets the wrong way round": with_header({A: entry([2, 6], 48, 0)}, floats(12)),
    "has a number with a fraction": with_header({A: entry([2, 6], 0, 48.0)}, floats(12)),  # type: ignore[arg-type]
    "has metadata that is no text": with_header({"__metadata__": {"format": 1}}, b""),
    "has metadata that is a list": with_header({"__metadata__": []}, b""),
    "names a key of an entry twice": with_header(
        b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [1], "data_offsets": [0, 4]}}', bytes(4)
    ),
    "is longer than any header": struct.pack("<Q", 17 * 2**20) + b" " * 17 * 2**20,
    "is nested without end": with_header(b"[" * 100_000, b""),
    "holds a number without end": with_header(b'{"a": ' + b"1" * 10_000 + b"}", b""),
    "names a tensor twice": with_header(
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
        b' "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        bytes(4),
    ),
    "overlaps": with_header({A: entry([2, 6], 0, 48), B: entry([4, 2], 40, 72)}, floats(18)),
    "leaves a gap": with_header({A: entry([2, 6], 0, 48), B: entry([4, 2], 52, 84)}, floats(21)),
    "has bytes left over": adapter_bytes() + b"\0",
    "ends early": adapter_bytes()[:-1],
    "has offsets that do not fit the shape": with_header({A: entry([2, 7], 0, 48)}, floats(12)),
    "has a shape whose product overflows": with_header({A: entry([2**40, 2**40], 0, 0)}, b""),
    "has a negative offset": with_header({A: entry([2, 6], -48, 0)}, floats(12)),
    "has a boolean in a shape": with_header({A: entry([True, 12], 0, 48)}, floats(12)),
    "has an unknown dtype": with_header({A: entry([2, 6], 0, 48, "PICKLE")}, floats(12)),
    "has an unknown key": with_header({A: {**entry([2, 6], 0, 48), "path": "x"}}, floats(12)),
}


@pytest.mark.parametrize("data", HEADERS.values(), ids=HEADERS.keys())
def test_a_file_whose_header_lies_is_refused(data: bytes, tmp_path: Path) -> None:
    """Whatever the header claims, nothing is allocated from it and the file is refused."""
    with pytest.raises(BadRequest) as caught:
        check(tmp_path, data)
    assert caught.value.code == "adapter_rejected"


def test_a_header_of_brackets_is_not_parsed(tmp_path: Path) -> None:
    """Sixteen megabytes that would be hundreds in memory are refused for less than twice their size."""
    path = tmp_path / "huge.safetensors"
    path.write_bytes(with_header(b'{"a":[' + b"[]," * 5_500_000 + b"0]}", b""))
    tracemalloc.start()
    try:
        with pytest.raises(MalformedFile, match="too many"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size
    finally:
        tracemalloc.stop()


NAN, INFINITE = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))

TENSOR_FILES = {
    "NaN": (pair(a=("F32", [2, 6], floats(11) + NAN)), "not finite"),
    "infinite": (pair(a=("F32", [2, 6], floats(11) + INFINITE)), "not finite"),
    "NaN in float16": (pair(a=("F16", [2, 6], bytes(22) + struct.pack("<e", float("nan")))), "not finite"),
    "NaN in bfloat16": (pair(a=("BF16", [2, 6], bytes(22) + b"\xc0\x7f")), "not finite"),
    "infinite in float16": (pair(b=("F16", [4, 2], struct.pack("<e", float("-inf")) + bytes(14))), "not finite"),
    "infinite in bfloat16": (pair(a=("BF16", [2, 6], bytes(22) + b"\x80\x7f")), "not finite"),
    "a million times too large": (pair(b=("F32", [4, 2], floats(8, scale=5e4))), "root mean square"),
    "integers": (pair(a=("I32", [2, 6], bytes(48))), "float32"),
    "another rank": (pair(a=("F32", [3, 4], floats(12))), "rank"),
    "A and B of different ranks": (pair(b=("F32", [8, 1], floats(8))), "rank"),
    "a vector": (pair(a=("F32", [12], floats(12))), "matrices"),
    "no B": (safetensors({A: ("F32", [2, 6], floats(12))}), "lacks"),
    "no tensors": (safetensors({}), "no tensors"),
    "a foreign name": (pair(**{"lm_head.weight": ("F32", [1], bytes(4))}), "not named"),
    "a path as a name": (pair(**{"base_model.model.../../x.lora_A.weight": ("F32", [1], bytes(4))}), "not named"),
    "lm_head": (adapter_bytes(module="lm_head"), "not among the modules"),
    "a vision module": (adapter_bytes(module="model.visual.blocks.0.attn.proj"), "not among the modules"),
}


@pytest.mark.parametrize(("data", "reason"), TENSOR_FILES.values(), ids=TENSOR_FILES.keys())
def test_tensors_that_are_no_adapter_of_this_engine_are_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    """Numbers are finite and sane, names and ranks are what the engine wraps, and the reason is told."""
    with pytest.raises(BadRequest, match=reason):
        check(tmp_path, data)


CONFIGS = {
    "not JSON": b"{",
    "a list": b"[]",
    "too large": b" " * 70_000 + config_bytes(),
    "no rank": json.dumps({"peft_type": "LORA", "lora_alpha": 4, "target_modules": ["q_proj"]}).encode(),
    "another method": config_bytes(peft_type="IA3"),
    "a rank above the engine's": config_bytes(r=8),
    "a rank that is none": config_bytes(r=True),
    "auto_map": config_bytes(auto_map={"AutoModel": "evil.py"}),
    "auto_mapping with a path": config_bytes(auto_mapping={"path": "x"}),
    "modules_to_save": config_bytes(modules_to_save=["lm_head"]),
    "DoRA": config_bytes(use_dora=True),
    "a bias": config_bytes(bias="all"),
    "trained tokens": config_bytes(trainable_token_indices=[1, 2]),
    "rank patterns": config_bytes(rank_pattern={"q_proj": 8}),
    "an initialisation that changes the base": config_bytes(init_lora_weights="pissa"),
    "layer replication": config_bytes(layer_replication=[[0, 4]]),
    "an unknown key": config_bytes(run_this="x"),
    "an infinite alpha": config_bytes(lora_alpha=float("inf")),
    "an alpha that multiplies by a thousand": config_bytes(lora_alpha=2000),
    "a target without end": config_bytes(target_modules="(a+)+" * 1000),
}


@pytest.mark.parametrize("data", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_configuration_off_the_list_is_refused(data: bytes) -> None:
    """Only a plain LoRA of one rank, with keys and values that are known to do nothing else."""
    with pytest.raises(BadRequest) as caught:
        check_config(data, max_lora_rank=4)
    assert caught.value.code == "adapter_rejected"


def test_what_is_published_holds_known_keys_only() -> None:
    """Neutral keys of other PEFT versions are accepted and dropped; the given modules stay as they are."""
    config = check_config(config_bytes(some_new_key=None, peft_version="9"), max_lora_rank=4)
    assert config["target_modules"] == r".*language_model.*\.q_proj"
    assert not {"base_model_name_or_path", "peft_version", "some_new_key", "modules_to_save"} & set(config)


def test_a_good_adapter_passes_and_its_digest_is_of_its_content(tmp_path: Path) -> None:
    """Where the adapter says it came from does not change what it is."""
    one = check(tmp_path, pair(a=("BF16", [2, 6], bytes(24)), b=("F16", [4, 2], bytes(16))))
    assert (one.modules, one.parameters) == (1, 20)
    assert check(tmp_path, adapter_bytes(), config_bytes(base_model_name_or_path="x")).digest == one.digest
    assert check(tmp_path, adapter_bytes(), config_bytes(lora_alpha=2)).digest != one.digest


BASE_MODELS = {
    "named as in memory": f"{MODULE}.weight",
    "named as in an older checkpoint": "model.layers.0.self_attn.q_proj.weight",
}


@pytest.mark.parametrize("name", BASE_MODELS.values(), ids=BASE_MODELS.keys())
def test_shapes_are_those_of_the_base_model(name: str, tmp_path: Path) -> None:
    """A module that the base lacks, or of another shape there, is refused."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(safetensors({name: ("F32", [4, 6], bytes(96))}))
    base = BaseModel.load(str(model))
    assert base is not None
    assert check(tmp_path, adapter_bytes(), base=base).modules == 1
    with pytest.raises(BadRequest, match="4 x 6, not 4 x 7"):
        check(tmp_path, adapter_bytes(inputs=7), base=base)
    with pytest.raises(BadRequest, match="no module"):
        check(tmp_path, adapter_bytes(module=MODULE.replace("layers.0", "layers.9")), base=base)


def test_without_a_local_base_model_shapes_are_not_looked_at() -> None:
    """A Hugging Face name is no directory: the check is left to the probe."""
    assert BaseModel.load("some-org/some-model") is None


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_make_the_reader_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int
) -> None:
    """Whatever is uploaded, the reader either reads it or says that it is malformed."""
    path = tmp_path_factory.getbasetemp() / "junk.safetensors"
    good = adapter_bytes()
    for data in (junk, good[:at] + junk + good[at + len(junk) :]):
        path.write_bytes(data)
        try:
            read_header(path)
        except MalformedFile:
            continue
