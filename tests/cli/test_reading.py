"""What a command reads from disk: the spec and its imports, and never anything outside the root folder."""

from __future__ import annotations

import os

import pytest

from moedsl.cli.reading import MAX_FILE_BYTES, Unreadable, imports_of, read_source


def put(folder, **texts):
    for name, text in texts.items():
        file = folder / f"{name.replace('__', '/')}.moe"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_imports_are_followed_and_nothing_else_is_read(tmp_path):
    put(
        tmp_path,
        spec='import a from "parts/one.moe"\n',
        parts__one='import b from "two.moe"\n',
        parts__two="# b\n",
        other="",
    )
    source = read_source(tmp_path / "spec.moe")
    assert sorted(source.files) == ["parts/one.moe", "parts/two.moe", "spec.moe"]
    assert source.text == source.files["spec.moe"]


def test_a_comment_imports_nothing():
    assert imports_of(
        '# import a from "b.moe"\nimport c from "d.moe" # from "e.moe"\nadapter f on "g.json" {}\n'
    ) == [
        "d.moe",
        "g.json",
    ]


@pytest.mark.parametrize("way", ["../secret.moe", "parts/../../secret.moe", "{absolute}"])
def test_nothing_outside_the_root_is_read(tmp_path, way):
    put(tmp_path, secret="# secret\n", inside__parts__a="")
    way = way.format(absolute=tmp_path / "secret.moe")
    put(tmp_path, inside__spec=f'import a from "{way}"\n')
    assert list(read_source(tmp_path / "inside" / "spec.moe").files) == ["spec.moe"]


def test_links_that_leave_the_root_are_not_followed(tmp_path):
    put(
        tmp_path,
        secret="# secret\n",
        inside__spec='import a from "link.moe"\nimport b from "folder/secret.moe"\n',
    )
    os.symlink(tmp_path / "secret.moe", tmp_path / "inside" / "link.moe")
    os.symlink(tmp_path, tmp_path / "inside" / "folder")
    assert list(read_source(tmp_path / "inside" / "spec.moe").files) == ["spec.moe"]


def test_a_wider_root_reaches_further(tmp_path):
    put(tmp_path, shared="# shared\n", inside__spec='import a from "../shared.moe"\n')
    source = read_source(tmp_path / "inside" / "spec.moe", tmp_path)
    assert sorted(source.files) == ["inside/spec.moe", "shared.moe"]
    with pytest.raises(Unreadable, match="not under the root"):
        read_source(tmp_path / "shared.moe", tmp_path / "inside")


def test_cycles_end(tmp_path):
    put(tmp_path, spec='import a from "two.moe"\n', two='import b from "spec.moe"\n')
    assert sorted(read_source(tmp_path / "spec.moe").files) == ["spec.moe", "two.moe"]


def test_what_is_no_text_or_too_much_is_refused(tmp_path):
    (tmp_path / "big.moe").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    (tmp_path / "odd.moe").write_bytes(b"# \xff\n")
    with pytest.raises(Unreadable, match="larger than 1 MiB"):
        read_source(tmp_path / "big.moe")
    with pytest.raises(Unreadable, match="not UTF-8"):
        read_source(tmp_path / "odd.moe")


def test_ends_of_lines_are_the_same_everywhere(tmp_path):
    (tmp_path / "spec.moe").write_bytes(b"\xef\xbb\xbfa = 1\r\nb = 2\r\n")
    assert read_source(tmp_path / "spec.moe").text == "a = 1\nb = 2\n"
