"""Makes PyPI's torch companions harmless beside a CPU build of torch.

PyPI's torchvision wheel is compiled against CUDA torch. Beside `torch==X+cpu` its compiled operators are
missing, and `import torchvision` stops with `operator torchvision::nms does not exist`. vLLM and the
Qwen-VL processors import torchvision but never call those operators; declaring their schemas is enough.

torchaudio and torchcodec have the same fault and are needed by nothing here, but transformers imports them
where they are installed: they are uninstalled.

`python deploy/torch_cpu.py` repairs the environment of the running interpreter: it does nothing where these
packages already import (PyTorch's own CPU and CUDA wheels), else it writes a start-up hook into site-packages.
A hook, and not an environment variable, because vLLM starts further processes (engine core, worker, model
inspection) before it loads any plugin, and every one of them has to see it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

HOOK_NAME = "_torchvision_cpu_hook"

HOOK = '''\
"""Written by Plumbline's deploy/torch_cpu.py: declares two operators before torchvision is imported."""
import sys


class _DeclareMissingOperators:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in ("nms", "qnms"):
                torch.library.define(
                    f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
        return None


sys.meta_path.insert(0, _DeclareMissingOperators())
'''


def import_error(package: str) -> str:
    """The last line of what a fresh interpreter says to `import package`; empty when it imports."""
    run = subprocess.run([sys.executable, "-c", f"import {package}"], check=False, capture_output=True, text=True)
    return run.stderr.strip().splitlines()[-1] if run.returncode else ""


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def remove_broken(package: str) -> None:
    """Uninstall an optional package that does not import."""
    if is_installed(package) and import_error(package):
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "--yes", "--quiet", package], check=True)
        print(f"{package}: removed, it was built for another torch and is not needed")


def repair_torchvision() -> str:
    """Write the hook if torchvision needs it; the error that remains, empty when there is none."""
    error = import_error("torchvision") if is_installed("torchvision") else ""
    if "torchvision::nms" not in error:
        return error
    site = Path(sysconfig.get_path("purelib"))
    (site / f"{HOOK_NAME}.py").write_text(HOOK)
    (site / f"{HOOK_NAME}.pth").write_text(f"import {HOOK_NAME}\n")
    print("torchvision: declared the compiled operators that PyPI's wheel lacks beside a CPU torch")
    return import_error("torchvision")


def main() -> int:
    """Exit 0 when torchvision imports afterwards, or is not installed at all."""
    remove_broken("torchaudio")
    remove_broken("torchcodec")
    if error := repair_torchvision():
        print(f"torchvision does not import: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
