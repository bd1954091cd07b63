"""Compiled templates, kept where Python keeps its own bytecode and by its rules: `__pycache__` beside each template, or
under PYTHONPYCACHEPREFIX; none are written where PYTHONDONTWRITEBYTECODE says so or the folder is not ours to write."""

from __future__ import annotations

import marshal
import sys
from contextlib import suppress
from functools import cache
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket, BytecodeCache

from moedsl.cli.writing import replace_file
from moedsl.resources import find


class TemplateCache(BytecodeCache):
    """What Jinja asks before it compiles a template, and tells afterwards."""

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        return name

    def load_bytecode(self, bucket: Bucket) -> None:
        stamp = _stamp(bucket)
        with suppress(OSError, ValueError, EOFError, TypeError):
            data = _file(bucket).read_bytes()
            if data.startswith(stamp):
                bucket.code = marshal.loads(data[len(stamp) :])

    def dump_bytecode(self, bucket: Bucket) -> None:
        if not sys.dont_write_bytecode:
            with suppress(OSError):
                replace_file(_file(bucket), _stamp(bucket) + marshal.dumps(bucket.code))


@cache
def template_cache() -> TemplateCache:
    """The only one, so that a process compiles each template once."""
    return TemplateCache()


def _file(bucket: Bucket) -> Path:
    return Path(cache_from_source(str(find("templates", bucket.key)))).with_suffix(".jinja")


def _stamp(bucket: Bucket) -> bytes:
    """All that decides what a template is compiled to: its text, the way it is read, and who compiles."""
    jinja = bucket.environment
    ways = (jinja.trim_blocks, jinja.lstrip_blocks, jinja.keep_trailing_newline, jinja.autoescape)
    return MAGIC_NUMBER + f"{jinja2.__version__} {ways} {bucket.checksum}\n".encode()
