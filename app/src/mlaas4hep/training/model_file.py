"""The user's model file: ``def model(idim)``. Its code runs in this process, which is the job's."""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mlaas4hep.core.errors import MlaasError, ModelError, UsageError, did_you_mean
from mlaas4hep.frameworks import FRAMEWORKS

_MODULE = "mlaas4hep_user_model"
T = TypeVar("T")


@dataclass(frozen=True)
class ModelFile:
    """A model file that was read and looked over, not run."""

    path: Path
    source: str
    imported: frozenset[str]
    """Top-level names of the modules that it imports."""

    @classmethod
    def read(cls, path: Path) -> ModelFile:
        """Read the file and check what can be seen without running it.

        Raises UsageError (no such file) or ModelError with ``file:line``.
        """
        try:
            source = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UsageError(
                f"no such file: {path}", "Give the Python file with model(idim) with --model."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} can't be read: {error}") from None
        tree = _parse(source, path.name)
        for framework in FRAMEWORKS:
            framework.check_source(tree, path.name)
        names = set(_defined(tree))
        if not {"model", "*"} & names:
            functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
            raise ModelError(
                f"{path.name} has no function model(idim)",
                did_you_mean("model", functions) if functions else "Write: def model(idim):",
            )
        return cls(path, source, frozenset(_imports(tree)))

    def load(self) -> Callable[[int], Any]:
        """Run the file and return its function ``model``.

        The file's folder is on sys.path from here on, so that modules beside it can be imported.
        """
        folder = str(self.path.parent.resolve())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(_MODULE, self.path.resolve())
        if spec is None or spec.loader is None:
            raise ModelError(f"{self.path.name} is not a Python file", "Call it something.py.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[_MODULE] = module
        importlib.invalidate_caches()
        self.run("loading", lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
        function = getattr(module, "model", None)
        if not callable(function):
            raise ModelError(
                f"{self.path.name}: model is a {type(function).__name__}, not a function",
                "Write: def model(idim):",
            )
        return function  # type: ignore[no-any-return]

    def build(self, width: int) -> Any:
        """Load the file and call ``model(width)``; ModelError when it fails or returns nothing."""
        function = self.load()
        model = self.run(f"model({width})", lambda: function(width))
        if model is None:
            raise ModelError(
                f"{self.path.name}: model({width}) returned nothing",
                "End the function with: return <the model>",
            )
        return model

    def run(self, what: str, action: Callable[[], T]) -> T:
        """Run user code; what it raises becomes a ModelError with the user's line."""
        # Nothing appears beside the user's files that they didn't ask for, __pycache__ neither.
        before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            return action()
        except ModelError as error:
            raise ModelError(f"{self.path.name}: {error.message}", error.remedy) from error
        except MlaasError:
            raise
        except (Exception, SystemExit) as error:
            remedy = self._lines(error)
            if isinstance(error, ModuleNotFoundError) and error.name:
                remedy = (
                    f"{error.name} is not installed here, and no file beside {self.path.name}."
                    f" Models are: {'; '.join(framework.wanted for framework in FRAMEWORKS)}."
                )
            raise ModelError(
                f"{self.where(error)}: {what} failed: {_reason(error)}", remedy
            ) from error
        finally:
            sys.dont_write_bytecode = before

    def where(self, error: BaseException) -> str:
        """``model.py:12``, the innermost line of the user's folder in the traceback."""
        frames = self._frames(error)
        if isinstance(error, SyntaxError) and error.filename and error.lineno:
            return f"{Path(error.filename).name}:{error.lineno}"
        if not frames:
            return self.path.name
        return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"

    def _frames(self, error: BaseException) -> list[traceback.FrameSummary]:
        folder = self.path.parent.resolve()
        return [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).parent == folder
        ]

    def _lines(self, error: BaseException) -> str:
        return "\n  ".join(
            f"{Path(frame.filename).name}:{frame.lineno}, in {frame.name}: {frame.line}"
            for frame in self._frames(error)
        )


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:500]}" if lines else type(error).__name__


def _parse(source: str, name: str) -> ast.Module:
    try:
        return ast.parse(source, name)
    except SyntaxError as error:
        remedy = "Correct the line; 'python -m py_compile' checks a file."
        if "positional argument follows keyword argument" in error.msg:
            remedy = (
                "In the call that ends here an argument without a name comes after name=value: "
                "give it its name; a list of metrics is written metrics=[...]."
            )
        raise ModelError(f"{name}:{error.lineno}: not valid Python: {error.msg}", remedy) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{name}: not valid Python: {error}") from None


def _defined(tree: ast.Module) -> Iterator[str]:
    """Names that the module's top level binds, inside if and try too."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
            case ast.Name(ctx=ast.Store()):
                yield node.id


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name.split(".")[0] for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.split(".")[0]
