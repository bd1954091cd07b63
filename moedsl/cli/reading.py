"""From disk to `Source`: a spec and every text that it imports, and nothing outside the root folder."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from moedsl.source import Source

MAX_FILE_BYTES = 1 << 20
MAX_FILES = 256

# A comment, or a string with the word before it: comments are matched so that a string in one is not an import.
_TOKEN = re.compile(r'#[^\n]*|(?:\b(?P<word>from|on)\s*)?"(?P<text>[^"\n]*)"')


class Unreadable(Exception):
    """A file that could not or must not be read; the message is for people."""


def read_source(path: str | Path, root: str | Path | None = None) -> Source:
    """The spec at `path` with all that it imports, transitively. `root` defaults to the spec's own folder.

    Names are relative to the root, so that the same files are the same source wherever they lie. What an import names
    outside the root is left out, and the compiler then reports it where it is written.
    """
    spec = Path(path)
    folder = Path(root) if root is not None else spec.parent
    folder = folder.resolve()
    here = spec.resolve()
    if not here.is_relative_to(folder):
        raise Unreadable(f"{path} is not under the root folder {root}")
    text = _read(here, str(path))
    name = here.relative_to(folder).as_posix()
    texts = {name: text}
    queue = [name]
    while queue:
        importer = queue.pop()
        for wanted in imports_of(texts[importer]):
            key = _normal(PurePosixPath(importer).parent / wanted)
            file = None if key is None or key in texts else _inside(folder, key)
            if key is None or file is None:
                continue
            if len(texts) == MAX_FILES:
                raise Unreadable(f"{path} imports more than {MAX_FILES} files")
            texts[key] = _read(file, key)
            queue.append(key)
    return Source(text, name, dict(sorted(texts.items())))


def imports_of(text: str) -> list[str]:
    """The file names after `from` and `on`, in order."""
    return [m["text"] for m in _TOKEN.finditer(text) if m["word"]]


def _normal(path: PurePosixPath) -> str | None:
    """`path` without `.` and `..`; None where it climbs above the root."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            if not parts:
                return None
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _inside(folder: Path, key: str) -> Path | None:
    """The file, unless it is missing or a link leads out of `folder`."""
    if PurePosixPath(key).is_absolute():
        return None
    file = (folder / key).resolve()
    return file if file.is_relative_to(folder) and file.is_file() else None


def _read(file: Path, name: str) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise Unreadable(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB")
        return data.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except OSError as error:
        raise Unreadable(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Unreadable(f"{name} is not UTF-8 text (byte {error.start})") from error
