"""The files of a spec: their declarations, and what they import from each other. No path leaves the root."""

from __future__ import annotations

import posixpath
import re
from dataclasses import field

from moedsl.diagnostics.model import Label
from moedsl.frozen import record
from moedsl.model import limits, merge, problems
from moedsl.model.run import Run
from moedsl.model.scope import Entry, Frame, Layer
from moedsl.source import Source, Span
from moedsl.syntax import ast

_OF_A_BODY = ("input", "let", "output")  # they name tensors, and a file has none
_APART = "declare what both need in a third file, which both import"
_DRIVE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@record
class Files:
    """Every text that a spec reaches, each read once."""

    run: Run
    source: Source
    scopes: dict[str, Frame] = field(default_factory=dict)
    reading: list[tuple[str, Span]] = field(default_factory=list)
    characters: int = 0

    def scope(self, path: str, tree: ast.File) -> Frame:
        """The names of one file. Imports are followed before the file's own declarations are entered."""
        frame = Frame(path, "", scope="file")
        self.scopes[path] = frame
        layer = Layer(tree.statements, None)
        own: list[ast.Statement] = []
        for statement in tree.statements:
            if isinstance(statement, ast.Import):
                self._import(path, frame, layer, statement)
            elif isinstance(statement, ast.Declaration) and statement.kind.text in _OF_A_BODY:
                problems.outside_of_a_body(self.run.sink, statement.kind.text, statement.kind.span)
                for name in statement.names:
                    frame.names[name.text] = Entry(name.text, "missing", frame, None, name.span)
            elif isinstance(statement, ast.Declaration):
                own.append(statement)
            else:
                self.run.sink.error(
                    "E0218", "a setting stands in a body, not between declarations", statement.span
                )
        merge.frame_of(self.run, frame, (Layer(tuple(own), None),))
        return frame

    def _import(self, path: str, frame: Frame, layer: Layer, statement: ast.Import) -> None:
        target = self._target(path, statement.path)
        other = None if target is None else self._read(target, statement.path.span)
        for name in statement.names:
            if name.text in frame.names:
                problems.duplicate(self.run.sink, name.text, name.span, frame.names[name.text].span)
            elif merge.free(self.run, frame, name):
                self._bring(frame, other, name, statement)

    def _bring(
        self, frame: Frame, other: Frame | None, name: ast.Name, statement: ast.Import
    ) -> None:
        found = other.names.get(name.text) if other is not None else None
        if found is None:
            frame.names[name.text] = Entry(name.text, "missing", frame, None, name.span)
        if found is None and other is not None:
            more = problems.meant(name.text, name.span, other.names)
            more = more or {"help": f"it declares {problems.quoted(other.names) or 'nothing'}"}
            message = f"`{statement.path.value}` declares no `{name.text}`"
            self.run.sink.error("E0223", message, name.span, **more)
        if found is not None:
            frame.names[name.text] = found

    def _target(self, path: str, written: ast.String) -> str | None:
        """Where an import points, relative to the root; None where it may not go there."""
        text, span = written.value, written.span
        odd = not text or "\0" in text or "\\" in text or text.startswith("/") or _DRIVE.match(text)
        if not odd:
            joined = posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
            if joined != ".." and not joined.startswith(("../", "/")) and joined != ".":
                return joined
        self.run.sink.error(
            "E0220",
            "an import may not leave the folder of the spec",
            span,
            help='write a path relative to this file, with `/`: import name from "folder/file.moe"',
        )
        return None

    def _read(self, target: str, span: Span) -> Frame | None:
        run = self.run
        opened = [path for path, _ in self.reading]
        if target in opened or (target == self.source.path and not opened):
            way = " -> ".join(
                f"`{path}`" for path in [*opened[max(0, opened.index(target)) :], target]
            )
            others = tuple(Label(s, "imported here") for _, s in self.reading if s.end)
            message = (
                f"these files import each other: {way}" if others else f"`{target}` imports itself"
            )
            run.sink.error(
                "E0221",
                message,
                span,
                secondary=others,
                help=_APART if others else "what a file declares is known in it without an import",
            )
            return None
        if target in self.scopes:
            return self.scopes[target]
        text = self.source.files.get(target)
        if text is None:
            more = problems.meant(target, span, self.source.files)
            more.pop("edits", None)
            more = more or {"help": "a path is relative to the file that imports it"}
            run.sink.error("E0223", f"there is no file `{target}`", span, **more)
            return None
        return self._parse(target, text, span)

    def _parse(self, target: str, text: str, span: Span) -> Frame:
        from moedsl.syntax.parser import parse

        self.characters += len(text)
        if len(self.scopes) >= limits.MAX_FILES or self.characters > limits.MAX_IMPORTED:
            message = (
                f"a spec may reach {limits.MAX_FILES} files with {limits.MAX_IMPORTED:,} characters"
            )
            self.run.sink.error("E0230", message, span)
            raise limits.Stopped
        self.run.fuel.left += limits.FUEL_PER_CHARACTER * len(text)
        tree = parse(Source(text, target, self.source.files), self.run.sink)
        self.reading.append((target, span))
        try:
            return self.scope(target, tree)
        finally:
            self.reading.pop()


def root_scope(run: Run, tree: ast.File, source: Source) -> Frame:
    """The names of the file that was given."""
    files = Files(run, source)
    path = posixpath.normpath(source.path) if source.path in source.files else source.path
    files.reading.append((path, Span(0, 0)))
    return files.scope(path, tree)
