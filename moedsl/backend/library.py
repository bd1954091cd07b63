"""The parts of the runtime library that a package needs.

`templates/package/library/` holds whole Python modules: ordinary code, formatted and readable as it stands. A package
gets of each module what its operations ask for (`imports = (".selection:count_picks",)`), and what that needs in turn:
functions, classes and constants in the module's own order, with the imports that they use. Where the text `package::`
names a custom operator, it becomes the name of the package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache

from moedsl.backend.imports import ImportSet
from moedsl.frozen import frozen
from moedsl.resources import exists, read_text

FOLDER = "package/library"


@frozen
class LibraryFile:
    """One printed file: `parts` are its definitions, each a text without blank lines around it."""

    name: str
    header: str
    doc: str
    imports: tuple[tuple[str, ...], ...]
    parts: tuple[str, ...]


@frozen
class _Part:
    """One definition: the names that it makes, those that it reads, its text."""

    names: frozenset[str]
    reads: frozenset[str]
    text: str


@frozen
class _Module:
    """`imports`: what each imported name stands for, as an op would ask for it ("torch:Tensor")."""

    doc: str
    imports: dict[str, str]
    parts: tuple[_Part, ...]


def plan_library(wants: Iterable[str], header: str, package: str) -> tuple[LibraryFile, ...]:
    """The files behind `wants` ("module:name" with a leading dot; others are passed over), by name of the file."""
    taken: dict[str, set[_Part]] = {}
    pending = list(wants)
    while pending:
        module, _, name = pending.pop().partition(":")
        if not module.startswith(".") or not exists("templates", f"{FOLDER}/{module[1:]}.py"):
            continue
        known = _module(module[1:])
        found = {part for part in known.parts if name in part.names}
        assert found, f"{name} is not in the library's {module}"
        for part in found - taken.setdefault(module, set()):
            pending += [f"{module}:{other}" for other in _own(known, part)]
            pending += [known.imports[read] for read in part.reads & known.imports.keys()]
        taken[module] |= found
    return tuple(
        _file(module[1:], parts, header, package) for module, parts in sorted(taken.items())
    )


def wants_of(files: Iterable[LibraryFile]) -> Iterator[str]:
    """What the library files import of the package's other files, as an op would ask for it."""
    for file in files:
        for name in _module(file.name).imports.values():
            if name.startswith(".") and name.partition(":")[2] in "".join(file.parts):
                yield name


def _own(module: _Module, part: _Part) -> Iterator[str]:
    names = frozenset().union(*(other.names for other in module.parts))
    yield from sorted((part.reads & names) - part.names)


def _file(name: str, taken: set[_Part], header: str, package: str) -> LibraryFile:
    module = _module(name)
    imports = ImportSet()
    for read in sorted(set().union(*(part.reads for part in taken)) & module.imports.keys()):
        imports.ask([module.imports[read]])
    texts = (
        part.text.replace('"package::', f'"{package}::') for part in module.parts if part in taken
    )
    return LibraryFile(name, header, module.doc, imports.blocks(), tuple(texts))


@cache
def _module(name: str) -> _Module:
    text = read_text("templates", f"{FOLDER}/{name}.py")
    tree = ast.parse(text)
    lines = text.splitlines()
    imports: dict[str, str] = {}
    parts: list[_Part] = []
    end = 0
    for node in tree.body:
        match node:
            case ast.Import(names=names):
                imports.update(_imported(names))
            case ast.ImportFrom(module=module, names=names, level=level):
                where = "." * level + (module or "")
                imports.update((each.asname or each.name, f"{where}:{each.name}") for each in names)
            case ast.Expr(value=ast.Constant()):
                pass  # the docstring
            case _:
                parts.append(_Part(_made(node), _read(node), _text(node, lines, end)))
        end = node.end_lineno or end
    return _Module(f'"""{_docstring(tree)}"""', imports, tuple(parts))


def _docstring(tree: ast.Module) -> str:
    found = ast.get_docstring(tree, clean=False)
    assert found is not None, "a library module says what it holds"
    return found


def _imported(names: list[ast.alias]) -> Iterator[tuple[str, str]]:
    short = {"torch.nn.functional": "F"}
    for each in names:
        bound = each.asname or each.name
        yield bound, short.get(each.name, f"{each.name}:")


def _made(node: ast.stmt) -> frozenset[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        # What registers something for an operator belongs to the operator.
        about = [_first_name(each) for each in node.decorator_list] if node.name == "_" else []
        return frozenset([node.name, *about]) - {"_"}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return frozenset(each.id for each in targets if isinstance(each, ast.Name))
    return frozenset({_first_name(node.value)} if isinstance(node, ast.Expr) else ())


def _first_name(node: ast.expr) -> str:
    """The name that an expression such as `route_op.register_fake` begins with."""
    while not isinstance(node, ast.Name):
        node = node.func if isinstance(node, ast.Call) else node.value  # type: ignore[attr-defined]
    return node.id


def _read(node: ast.stmt) -> frozenset[str]:
    return frozenset(each.id for each in ast.walk(node) if isinstance(each, ast.Name))


def _text(node: ast.stmt, lines: list[str], before: int) -> str:
    """The definition with its decorators and the comment right above it."""
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(each.lineno for each in decorators)]) - 1
    while start > before and lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start : node.end_lineno])


def print_library(file: LibraryFile) -> str:
    """The text of one file."""
    imports = "\n\n".join("\n".join(block) for block in file.imports)
    head = [file.header, file.doc] if not imports else [f"{file.header}\n{file.doc}", imports]
    first = "\n\n".join(head) if imports else "\n".join(head)
    text, before = first, "import"
    for part in file.parts:
        kind = "body" if part.startswith(("def ", "class ", "@", "#")) else "constant"
        blank = {("import", "constant"): 1, ("constant", "constant"): 0}.get((before, kind), 2)
        text, before = text + "\n" * (blank + 1) + part, kind
    return text + "\n"
