"""A spec as a class in memory: compile it, and import the printed package from strings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class SpecError(ValueError):
    """The spec has errors; the message is what `moedsl check` prints, `diagnostics` the same as values."""

    def __init__(self, message: str, diagnostics: tuple[Any, ...]) -> None:
        super().__init__(message)
        self.diagnostics = diagnostics


def load(
    spec: str | Path, *, root: str | Path | None = None, target: str = "", **settings: Any
) -> type:
    """The model class of `spec`, compiled in memory. `settings` are edits as `--set` takes them:

    load("mixtral_8x7b.moe", depth=2, **{"sparse.experts": "4 * swiglu(96)"})
    """
    from moedsl.cli.reading import read_source
    from moedsl.pipeline import compile

    source = read_source(spec, root)
    result = compile(
        source, tuple(f"{path}={_spelled(value)}" for path, value in settings.items()), target
    )
    if not result.ok:
        from moedsl.diagnostics.render import render_text

        raise SpecError(render_text(result.diagnostics, source), result.diagnostics)
    return model_class(load_package(result.files, result.model.name))


def _spelled(value: Any) -> str:
    """A Python value as the language writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def model_class(module: ModuleType) -> type:
    """The model that a printed package exports: the one class of `__all__` that knows how to start its weights."""
    exported = (getattr(module, name) for name in module.__all__)
    return next(
        value for value in exported if isinstance(value, type) and hasattr(value, "init_weights")
    )


def load_package(files: Mapping[str, str], name: str) -> ModuleType:
    """Import the printed files. Equal files are imported once; others of the same name live side by side."""
    import hashlib
    import importlib

    texts = {_inner(path, name): text for path, text in files.items() if path.endswith(".py")}
    digest = hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:12]
    unique = f"{name}_{digest}"
    if unique not in sys.modules:
        finder = _Strings(unique, {p: _renamed(t, name, unique) for p, t in texts.items()})
        sys.meta_path.append(finder)
    return importlib.import_module(unique)


def _inner(path: str, name: str) -> str:
    """The path inside the package, whether or not `files` puts the package's folder first."""
    return path.removeprefix(f"{name}/")


def _renamed(text: str, name: str, unique: str) -> str:
    """Custom operators are global to a process, so each import gets a namespace of its own."""
    return text.replace(f'"{name}::', f'"{unique}::').replace(
        f"torch.ops.{name}.", f"torch.ops.{unique}."
    )


class _Strings:
    """Finds and loads the modules of one package whose texts are in memory; tracebacks show their lines.

    A finder and a loader by what it does, not by inheritance: the base classes alone would cost every start 20 ms.
    """

    def __init__(self, package: str, texts: Mapping[str, str]) -> None:
        self.texts: dict[str, str] = {}
        self.packages: set[str] = set()
        for path, text in texts.items():
            *folders, file = path.removesuffix(".py").split("/")
            name = ".".join((package, *folders))
            if file == "__init__":
                self.packages.add(name)
            self.texts[name if file == "__init__" else f"{name}.{file}"] = text

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        import importlib.util

        if fullname not in self.texts:
            return None
        origin = self._file(fullname)
        loader: Any = self
        spec = importlib.util.spec_from_loader(
            fullname, loader, origin=origin, is_package=self.is_package(fullname)
        )
        assert spec is not None
        spec.has_location = True  # sets __file__, which inspect and linecache look for
        return spec

    def is_package(self, fullname: str) -> bool:
        return fullname in self.packages

    def get_source(self, fullname: str) -> str:
        return self.texts[fullname]

    def create_module(self, spec: Any) -> None:
        """As usual."""

    def exec_module(self, module: ModuleType) -> None:
        import linecache

        text, file = self.texts[module.__name__], self._file(module.__name__)
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec", dont_inherit=True), module.__dict__)

    def _file(self, fullname: str) -> str:
        package, *inner = fullname.split(".")
        last = [*inner, "__init__"] if self.is_package(fullname) else inner
        return f"<{'/'.join((package, *last))}.py>"
