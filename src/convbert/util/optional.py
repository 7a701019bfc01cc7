"""Which extras are installed, and the sentence to show when one is not."""

from __future__ import annotations

from importlib.util import find_spec

from convbert.util.errors import InputError

EXTRAS = {
    "train": ("accelerate", "datasets", "matplotlib", "scikit-learn", "scipy"),
    "distill": ("accelerate", "datasets", "matplotlib", "scikit-learn", "scipy", "sentence-transformers"),
    "lora": ("peft",),
    "table": ("pyarrow",),
    "ray": ("ray", "pandas", "pyarrow"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "ecosystem": ("captum", "keybert", "peft", "sentence-transformers", "setfit"),
    "executorch": ("executorch",),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "bench": ("onnx", "onnxruntime", "onnxscript", "openvino"),
}
"""Name of an extra to the packages it brings; as in the package's metadata."""

_MODULES = {"scikit-learn": "sklearn", "sentence-transformers": "sentence_transformers"}
"""Packages that are imported under another name."""


def missing_packages(extra: str) -> list[str]:
    """The packages of `extra` that are not installed. Imports none of them."""
    return [package for package in EXTRAS[extra] if find_spec(_MODULES.get(package, package)) is None]


def install_hint(extra: str) -> str:
    """The command that installs `extra`."""
    return f'pip install "convbert[{extra}]"'


def require(extra: str, feature: str) -> None:
    """Check that `feature` has what it needs.

    Raises:
        InputError: naming the feature, the packages that are missing, and the command that installs them.
    """
    if missing := missing_packages(extra):
        raise InputError(f"{feature} needs {', '.join(missing)}: {install_hint(extra)}")
