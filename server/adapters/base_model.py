"""Shapes of the base model's weights, from the headers of its safetensors files, where they are at hand.

A module of an adapter is looked up under its own name first, then by what follows the prefixes in which
checkpoints differ from the model in memory (`model.language_model.layers.0` here, `model.layers.0` there).
"""

from __future__ import annotations

from pathlib import Path

from server.adapters.safetensors import MalformedFile, read_header

PREFIXES = frozenset({"model", "language_model"})
PLAIN_DTYPES = frozenset({"F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2"})


def _short(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in PREFIXES:
        parts.pop(0)
    return ".".join(parts)


class BaseModel:
    """The linear weights of a base model: (out, in) by module, None where a packed format hides the shape."""

    def __init__(self, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
        self._shapes: dict[str, tuple[int, int] | None] = {}
        for name, (dtype, shape) in tensors.items():
            module, _, leaf = name.rpartition(".")
            is_plain = leaf == "weight" and dtype in PLAIN_DTYPES and len(shape) == 2
            if is_plain:
                self._shapes[module] = (shape[0], shape[1])
            else:
                self._shapes.setdefault(module, None)
        self._by_short_name = {_short(module): shape for module, shape in self._shapes.items()}

    @classmethod
    def load(cls, model: str) -> BaseModel | None:
        """From the model's directory; None when `model` is no local directory with readable safetensors files."""
        directory = Path(model)
        try:
            files = sorted(directory.glob("*.safetensors")) if directory.is_dir() else []
            tensors = {one.name: (one.dtype, one.shape) for file in files for one in read_header(file)}
        except (OSError, MalformedFile):
            return None
        return cls(tensors) if tensors else None

    def has(self, module: str) -> bool:
        return module in self._shapes or _short(module) in self._by_short_name

    def shape(self, module: str) -> tuple[int, int] | None:
        """(out, in); None where it cannot be told."""
        return self._shapes[module] if module in self._shapes else self._by_short_name.get(_short(module))
