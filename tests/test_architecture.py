"""The shape of the project: it imports, it stays light, its parts are documented."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

PACKAGES = ("reward", "server", "clients", "learner")
HEAVY = ("torch", "transformers", "vllm", "peft")


def module_names() -> list[str]:
    names = []
    for package in PACKAGES:
        root = importlib.import_module(package)
        names += [package, *(info.name for info in pkgutil.walk_packages(root.__path__, f"{package}."))]
    # Migration scripts and `__main__` run when imported.
    return [name for name in names if "migrations" not in name and not name.endswith("__main__")]


@pytest.mark.parametrize("name", module_names())
def test_every_module_imports_and_says_what_it_is(name: str) -> None:
    """No module is broken, and each opens with a docstring."""
    module = importlib.import_module(name)
    assert module.__doc__


@pytest.mark.parametrize("package", ["server.app", "reward", "clients", "clients.cli", "clients.demo"])
def test_serving_and_client_code_imports_no_model_code(package: str) -> None:
    """The service and the command line start without torch, transformers or vllm."""
    probe = f"import {package}, sys; print([n for n in {HEAVY!r} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
