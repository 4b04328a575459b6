"""Optional dependencies: what each extra of the package holds, and how to mend that it is missing."""

from __future__ import annotations

import importlib.util

from asyncthink.errors import MissingExtraError

EXTRAS = {
    "hub": {"datasets": "datasets"},
    "local": {
        "jinja2": "jinja2",
        "numpy": "numpy",
        "safetensors": "safetensors",
        "tokenizers": "tokenizers",
        "torch": "torch>=2.13,<2.14",
    },
    "math": {"math_verify": "math-verify"},
    "plots": {"matplotlib": "matplotlib", "numpy": "numpy"},
    "simulate": {"trio": "trio"},
    "serve": {"starlette": "starlette", "uvicorn": "uvicorn"},
    "trl": {"peft": "peft", "requests": "requests", "trl": "trl>=1.16,<1.17"},
    "tokens": {"jinja2": "jinja2", "tokenizers": "tokenizers"},
}
"""Extra -> module -> what to ask pip for. It names packages, not the extra, so that it works whether the
package came from an index, a wheel or a checkout; the bounds on torch are those of constraints.txt. `hub` is not
in `math`, because with pyarrow and pandas it takes 260 MB, and `math` on top of torch 5 MB."""


def missing(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed; none is imported."""
    return [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]


def mend(extra: str) -> str:
    """Return the line that installs an extra."""
    return "pip install " + " ".join(f"'{need}'" if ">" in need else need for need in EXTRAS[extra].values())


def require(extra: str, what: str) -> None:
    """Make sure that an extra is installed.

    Raises:
        MissingExtraError: it is not; the message has the line that mends it.
    """
    if absent := missing(extra):
        raise MissingExtraError(f"{what} needs {', '.join(absent)}: {mend(extra)}")
