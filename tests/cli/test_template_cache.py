"""Compiled templates on disk: used where they fit, never in the way."""

from __future__ import annotations

import sys

import pytest
from jinja2 import Environment

from moedsl.backend.render import environment
from moedsl.cli.template_cache import TemplateCache
from moedsl.resources import read_text

NAME = "package/__init__.py.j2"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "bytecode"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return tmp_path / "bytecode"


@pytest.fixture
def compiled(monkeypatch):
    """The names of the templates that Jinja compiled, in order."""
    names, usual = [], Environment.compile

    def compile(self, source, name=None, *rest, **more):
        names.append(name)
        return usual(self, source, name, *rest, **more)

    monkeypatch.setattr(Environment, "compile", compile)
    return names


def load():
    return environment(TemplateCache()).get_template(NAME)


def written(folder):
    return list(folder.rglob("*.jinja"))


def test_a_template_is_compiled_once(folder, compiled):
    load()
    assert len(written(folder)) == 1 and compiled == [NAME]
    load()
    assert compiled == [NAME]


@pytest.mark.parametrize("keep", [0, 3, 60, -1])
def test_a_broken_file_is_compiled_over(keep, folder, compiled):
    load()
    (file,) = written(folder)
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    load()
    assert compiled == [NAME, NAME] and file.read_bytes() == data


def test_an_edited_template_and_another_way_to_read_it_are_compiled_anew(compiled, monkeypatch):
    load()
    edited = read_text("templates", NAME) + "# more\n"
    monkeypatch.setattr("moedsl.backend.render.read_text", lambda kind, name: edited)
    load()
    assert compiled == [NAME, NAME]
    jinja = environment(TemplateCache())
    jinja.keep_trailing_newline = False
    jinja.get_template(NAME)
    assert compiled == [NAME] * 3


def test_nothing_is_written_where_python_writes_no_bytecode(folder, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    load()
    assert not written(folder)


def test_a_folder_that_cannot_be_written_is_no_error(folder):
    folder.write_text("a file in the way")
    load()
