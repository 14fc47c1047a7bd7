"""What an uploaded adapter must look like, checked by hand before anything allocates or loads it.

`adapter_config.json`: a plain LoRA of one rank, written by an allow-list of keys and values. What is published
is written anew from the allowed keys, so that nothing else reaches an engine. `adapter_model.safetensors`: pairs
of `lora_A`, `lora_B` for modules that the engine wraps, of the configured rank, shaped like the base model's
weights, finite and of sane size. Everything that is wrong raises `BadRequest` with the code `adapter_rejected`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.adapters.base_model import BaseModel
from server.adapters.safetensors import MalformedFile, Tensor, norm, read_header
from server.errors import BadRequest

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
MANIFEST = "manifest.json"
UPLOADED = (CONFIG, TENSORS)
FILES = (CONFIG, TENSORS, MANIFEST)
"""What a published adapter's directory holds."""

MAX_CONFIG_BYTES = 64 * 1024
MAX_RMS = 10.0
"""Largest root mean square of a tensor. Trained ones lie below 0.2; ten times sane is not an adapter."""
MAX_SCALING = 64.0
"""Largest alpha / rank (or alpha / sqrt(rank))."""

_NAME = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+){0,31})\.lora_(?P<side>[AB])\.weight"
)


def rejected(reason: str) -> BadRequest:
    return BadRequest(f"The adapter was refused: {reason}.", code="adapter_rejected")


# --- configuration ----------------------------------------------------------------------------------------


def _is_neutral(value: Any) -> bool:
    return value is None or value is False or value in ({}, [], "")


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 512)


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _are_modules(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= 2000
    return (
        isinstance(value, list) and 0 < len(value) <= 1000 and all(isinstance(x, str) and len(x) <= 256 for x in value)
    )


KEPT: dict[str, Callable[[Any], bool]] = {
    "peft_type": lambda value: value == "LORA",
    "task_type": lambda value: value in (None, "CAUSAL_LM"),
    "r": _is_rank,
    "lora_alpha": _is_positive,
    "lora_dropout": _is_share,
    "use_rslora": _is_flag,
    "bias": lambda value: value == "none",
    "target_modules": _are_modules,
    "exclude_modules": lambda value: value is None or _are_modules(value),
    "inference_mode": _is_flag,
    "fan_in_fan_out": lambda value: value is False,
    "init_lora_weights": lambda value: isinstance(value, bool) or value in ("gaussian", "orthogonal"),
}
"""Keys that are published, each with the values it may take."""

DROPPED: dict[str, Callable[[Any], bool]] = {
    "base_model_name_or_path": _is_text,
    "revision": _is_text,
    "peft_version": _is_text,
    "megatron_core": _is_text,
    "qalora_group_size": lambda value: type(value) is int,
    "auto_mapping": lambda value: value is None or _names_a_class(value),
}
"""Keys that say nothing about what is served: accepted, not published. Any further key must be at a neutral value."""

REQUIRED = ("peft_type", "r", "lora_alpha", "target_modules")


def _names_a_class(value: Any) -> bool:
    """PEFT notes the class it wrapped, as two names; nobody here imports them."""
    return (
        isinstance(value, dict)
        and set(value) <= {"base_model_class", "parent_library"}
        and all(map(_is_text, value.values()))
    )


def check_config(data: bytes, *, max_lora_rank: int) -> dict[str, Any]:
    """The configuration as it will be published (without the base model's name); raises `BadRequest`."""
    if len(data) > MAX_CONFIG_BYTES:
        raise rejected(f"{CONFIG} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise rejected(f"{CONFIG} is not valid JSON") from None
    if not isinstance(config, dict):
        raise rejected(f"{CONFIG} is not a JSON object")
    for name in REQUIRED:
        if name not in config:
            raise rejected(f"{CONFIG} lacks {name}")
    for name, value in config.items():
        allows = KEPT.get(name) or DROPPED.get(name) or _is_neutral
        if not allows(value):
            shown = name if re.fullmatch(r"[A-Za-z0-9_]{1,64}", name) else "a key"
            raise rejected(f"{CONFIG}: {shown} is not allowed, or not at this value")
    if config["r"] > max_lora_rank:
        raise rejected(f"rank {config['r']} is above the engine's {max_lora_rank}")
    rank = config["r"]
    if config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank) > MAX_SCALING:
        raise rejected(f"lora_alpha scales the adapter by more than {MAX_SCALING:g}")
    return {name: config[name] for name in KEPT if name in config}


# --- tensors ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """An adapter that passed: its published configuration, its content's digest, and figures for the report."""

    config: dict[str, Any]
    digest: str
    modules: int
    parameters: int
    largest_rms: float


def check_files(
    directory: Path,
    *,
    tensors_sha256: str,
    max_lora_rank: int,
    lora_modules: Collection[str],
    base: BaseModel | None,
) -> Checked:
    """Everything about the two files in `directory`; blocking. Raises `BadRequest`, or `OSError`."""
    config = check_config((directory / CONFIG).read_bytes(), max_lora_rank=max_lora_rank)
    path = directory / TENSORS
    try:
        tensors = read_header(path)
        pairs = _pairs(tensors)
        for module, sides in pairs.items():
            _check_module(module, sides, config["r"], lora_modules, base)
        largest = _check_numbers(path, tensors)
    except MalformedFile as error:
        raise rejected(f"{TENSORS}: {error}") from None
    digest = hashlib.sha256(f"{tensors_sha256}\n{canonical(config)}".encode()).hexdigest()
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    return Checked(config, digest, len(pairs), parameters, largest)


def is_published(directory: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a directory holds what was published under this manifest, by hash, and nothing else; blocking."""
    try:
        return (
            holds_only(directory, (MANIFEST, *manifest["files"]))
            and json.loads((directory / MANIFEST).read_bytes()) == manifest
            and all(_sha256(directory / name) == file["sha256"] for name, file in manifest["files"].items())
        )
    except (OSError, ValueError):
        return False


def holds_only(directory: Path, names: Collection[str]) -> bool:
    """Whether these are regular files in a real directory, with nothing beside them that an engine might prefer."""
    if directory.is_symlink():
        return False
    with os.scandir(directory) as entries:
        return {entry.name: entry.is_file(follow_symlinks=False) for entry in entries} == dict.fromkeys(names, True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _pairs(tensors: list[Tensor]) -> dict[str, dict[str, Tensor]]:
    pairs: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        match = _NAME.fullmatch(tensor.name) if len(tensor.name) <= 512 else None
        if match is None:
            raise MalformedFile("a tensor is not named like base_model.model.<module>.lora_A.weight")
        if tensor.dtype not in {"F32", "F16", "BF16"}:
            raise MalformedFile("tensors must be float32, float16 or bfloat16")
        pairs.setdefault(match["module"], {})[match["side"]] = tensor
    if not pairs:
        raise MalformedFile("it holds no tensors")
    return pairs


def _check_module(
    module: str, sides: dict[str, Tensor], rank: int, lora_modules: Collection[str], base: BaseModel | None
) -> None:
    if module.rpartition(".")[2] not in lora_modules:
        raise MalformedFile(f"{module} is not among the modules that the engine wraps")
    if set(sides) != {"A", "B"}:
        raise MalformedFile(f"{module} lacks lora_A or lora_B")
    a, b = sides["A"].shape, sides["B"].shape
    if len(a) != 2 or len(b) != 2 or 0 in (*a, *b):
        raise MalformedFile(f"{module}: lora_A and lora_B must be matrices")
    if a[0] != rank or b[1] != rank:
        raise MalformedFile(f"{module}: lora_A and lora_B differ from the configured rank {rank}")
    if base is None:
        return
    if not base.has(module):
        raise MalformedFile(f"the base model has no module {module}")
    shape = base.shape(module)
    if shape is not None and shape != (b[0], a[1]):
        raise MalformedFile(f"{module}: the base model's weight is {shape[0]} x {shape[1]}, not {b[0]} x {a[1]}")


def _check_numbers(path: Path, tensors: list[Tensor]) -> float:
    largest = 0.0
    with path.open("rb") as file:
        for tensor in tensors:
            size = norm(file, tensor)
            if not math.isfinite(size):
                raise MalformedFile("a tensor holds numbers that are not finite")
            rms = size / math.sqrt(math.prod(tensor.shape))
            if rms > MAX_RMS:
                raise MalformedFile(f"a tensor's root mean square is above {MAX_RMS:g}")
            largest = max(largest, rms)
    return largest
