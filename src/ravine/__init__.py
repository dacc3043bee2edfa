"""ravine: training scientific machine-learning models well.

Names are imported when they are first used (PEP 562), so that `import ravine`, and with it `ravine --help`, does not
wait for JAX. What they are and where they live stands in `__init__.pyi` alone: type checkers read it, and so do we.
"""

import ast
import functools
import importlib
import importlib.util
import pathlib
import sys
import types
from typing import Any

__version__ = "0.1.0"


@functools.cache
def _homes() -> dict[str, str]:
    """Public name -> module, in the order of the stub; "ravine" for the modules themselves."""
    stub = ast.parse(pathlib.Path(__file__).with_suffix(".pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        value = sorted(_homes())
    elif _homes().get(name, "ravine") != "ravine":
        value = getattr(importlib.import_module(_homes()[name]), name)
    elif not name.startswith("__") and importlib.util.find_spec(f"ravine.{name}") is not None:
        value = importlib.import_module(f"ravine.{name}")
    else:
        raise AttributeError(f"module 'ravine' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes()})


class _Package(types.ModuleType):
    """Importing a submodule binds its name in the package; where a public name is the same, as `train` is, it stays."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, types.ModuleType) and _homes().get(name, "ravine") != "ravine"):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
