"""The base model with its frozen weights, and the policy: a LoRA adapter on top of it.

The reference of the preference objectives is the same model with the adapter switched off, so nothing is held
twice. Adapters go to and come from the disk as safetensors and JSON only.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from learner.errors import BaseMismatch, LearnerError, SettingsError
from learner.families import family_of
from learner.settings import Settings
from learner.team import Team
from server.wire.identity import directory_digest

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"

logger = logging.getLogger(__name__)


def find_base(name: str) -> Path:
    """The local directory of a base model: a path, or a hub name that has been downloaded before."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError) as error:
        raise BaseMismatch(
            f"base model {name!r} is no directory and not in the local cache; see --base-model"
        ) from error


def check_base(directory: Path, digest: str) -> None:
    """Raises `BaseMismatch` unless the directory holds the very model that the engine serves."""
    found = directory_digest(directory)
    if found != digest:
        raise BaseMismatch(
            f"{directory} is not the server's base model (digest {found[:12]}, server has {digest[:12]})"
        )


NO_IMAGES: Final = -1
"""`Base.image_token_id` of a text-only model: no token."""


class Base:
    """The frozen model: float32 on the CPU, bfloat16 on CUDA. Raises `LearnerError` for an unknown family."""

    def __init__(self, directory: Path, device: str = "auto", shards: Team | None = None) -> None:
        """`shards`: keep a part only of the decoder layers on each process of this team."""
        cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda" if cuda else "cpu")
        dtype = torch.bfloat16 if cuda else torch.float32
        config = AutoConfig.from_pretrained(directory)
        family = family_of(config)
        placeholder = family.image_token_id(config)
        kind: Any = AutoModelForCausalLM if placeholder is None else AutoModelForImageTextToText
        model: Any = kind.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa")
        model.eval().requires_grad_(False)
        if shards is not None:  # before the move, so that a GPU never holds the whole
            shards.shard(family.language_model(model.base_model), self.device)
        self.model = model.to(self.device)
        text = self.model.config.get_text_config()
        self.vocabulary: int = self.model.get_input_embeddings().weight.shape[0]
        self.max_positions: int = getattr(text, "max_position_embeddings", 2**31)
        self.image_token_id = NO_IMAGES if placeholder is None else placeholder
        self.eos_ids = _eos_ids(self.model)


def _eos_ids(model: Any) -> frozenset[int]:
    named = model.generation_config.eos_token_id
    if named is None:
        named = model.config.get_text_config().eos_token_id
    return frozenset([named] if isinstance(named, int) else named or [])


class Policy:
    """A LoRA adapter on the base. `close` takes it off again; one policy at a time."""

    def __init__(self, base: Base, config: LoraConfig, seed: int) -> None:
        self.base = base
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self.model = get_peft_model(base.model, config)
            except ValueError as error:
                raise SettingsError(f"learner setting target_modules: {error}") from error
        self.model.eval()  # no dropout anywhere: log-probabilities are those of the served model

    @classmethod
    def fresh(cls, base: Base, settings: Settings, seed: int) -> Policy:
        config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=settings.target_modules)
        return cls(base, config, seed)

    @classmethod
    def from_files(cls, base: Base, files: Mapping[str, bytes]) -> Policy:
        """Continue a published adapter, with its own rank and modules. Raises `LearnerError` when it does not fit."""
        try:
            described = json.loads(files[CONFIG_FILE])
            config = LoraConfig(
                r=described["r"], lora_alpha=described["lora_alpha"], target_modules=described["target_modules"]
            )
            tensors = load_tensors(files[WEIGHTS_FILE])
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise LearnerError(f"the parent adapter cannot be read: {type(error).__name__}") from error
        policy = cls(base, config, seed=0)
        policy.load(tensors)
        return policy

    def close(self) -> None:
        self.model.unload()

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the adapter in float32 on the CPU, under the names that PEFT and the engine use."""
        state = get_peft_model_state_dict(self.model)
        return {name: value.detach().to("cpu", torch.float32, copy=True).contiguous() for name, value in state.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        expected = self.tensors()
        if expected.keys() != tensors.keys() or any(expected[k].shape != tensors[k].shape for k in expected):
            raise LearnerError("the adapter's tensors are not those of this base model and configuration")
        set_peft_model_state_dict(self.model, dict(tensors))

    def module_names(self) -> set[str]:
        """Last names of the modules that carry an adapter, e.g. q_proj."""
        return {name.rpartition(".lora_A")[0].rpartition(".")[2] for name in self.parameters if ".lora_A" in name}

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the model is the base."""
        with self.model.disable_adapter():
            yield

    @contextmanager
    def dropout(self, rate: float, seed: str) -> Iterator[None]:
        """Inside, the adapter's layers see their inputs without this share of the values, as in LoRA's own dropout."""

        def drop(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (torch.nn.functional.dropout(inputs[0], rate), *inputs[1:])

        adapted = [module for name, module in self.model.named_modules() if name.endswith("lora_A.default")]
        hooks = [module.register_forward_pre_hook(drop) for module in adapted]
        try:
            with torch.random.fork_rng():
                torch.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]))
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def files(self, base_name: str) -> dict[str, bytes]:
        """The adapter as PEFT writes it. `base_name` stands where PEFT would put a local path."""
        config = self.model.peft_config["default"].to_dict()
        config |= {"base_model_name_or_path": base_name, "inference_mode": True}
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
        return {
            CONFIG_FILE: (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode(),
            WEIGHTS_FILE: save_tensors(self.tensors(), metadata={"format": "pt"}),
        }


def check_modules(policy: Policy, allowed: list[str]) -> None:
    """Raises `SettingsError` when an adapted module is one that the engine would silently leave out."""
    foreign = policy.module_names() - set(allowed)
    if allowed and foreign:
        raise SettingsError(f"learner setting target_modules: the engine adapts no {', '.join(sorted(foreign))}")
