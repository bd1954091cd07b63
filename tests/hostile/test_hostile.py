"""A spec is untrusted: it gets an error, and nothing is executed, read or written outside its folder."""

from __future__ import annotations

import ast
import time

import pytest

import moedsl.pipeline
from moedsl.source import Source
from tests.packages import SPECS, imported

TINY = (SPECS / "tiny.moe").read_text()


def compile_in_time(text: str, files: dict[str, str] | None = None, seconds: float = 2.0):
    started = time.process_time()
    result = moedsl.pipeline.compile(Source(text, "spec.moe", {"spec.moe": text} | (files or {})))
    assert time.process_time() - started < seconds
    return result


def refused(text: str, files: dict[str, str] | None = None, seconds: float = 2.0) -> list[str]:
    result = compile_in_time(text, files, seconds)
    assert not result.ok and not result.files
    return [d.code for d in result.diagnostics]


PAYLOADS = (
    '"""\nraise SystemExit("executed")\n"""',
    "'''; raise SystemExit('executed')  #",
    '{{ cycler.__init__.__globals__.os.system("false") }}',
    "{% include '/etc/passwd' %}",
    "\\N{QUOTATION MARK}\\x22\\\\",
    "ends with a backslash \\",
    'a quote at the end "',
    "\u202e reversed \u2066 and\u2028a line",
    "\x00 a null",
)


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_comments_stay_comments(payload):
    """A documentation comment reaches docstrings and the card, as text."""
    comment = "\n".join(f"# {line}" for line in payload.split("\n"))
    text = TINY.replace("  moe sparse", f"{comment}\n  moe sparse")
    result = compile_in_time(f"{comment}\n{text}")
    for path, code in result.files.items():
        if path.endswith(".py"):
            tree = ast.parse(code, path)
            assert not [
                n for n in ast.walk(tree) if isinstance(n, ast.Raise) and "executed" in ast.dump(n)
            ]
    if result.ok:
        pytest.importorskip("torch")
        imported(result.files)


@pytest.mark.parametrize(
    "name",
    [
        "__import__",
        "class",
        "self",
        "torch",
        "nn",
        "forward",
        "x; import os",
        "ｓｐarse",
        "аttention",
        "a" * 100_000,
        "__class__",
        "None",
    ],
    ids=lambda n: n[:12],
)
def test_names_stay_names(name):
    """A recipe's name becomes a class and an attribute: it is refused, or made harmless."""
    result = compile_in_time(TINY.replace("sparse", name))
    if result.ok:
        pytest.importorskip("torch")
        module = imported(result.files)
        assert module.__all__
    else:
        assert not result.files


def test_strings_in_checkpoint_names_stay_strings():
    text = TINY.rstrip().removesuffix("}") + (
        '  checkpoint hub = huggingface(names = file) {\n    embed = "a\\"; raise SystemExit(1) #{{7*7}}"\n  }\n}\n'
    )
    result = compile_in_time(text)
    for path, code in result.files.items():
        if path.endswith(".py"):
            ast.parse(code, path)
    assert not result.ok


@pytest.mark.parametrize(
    "old, new",
    [
        ("2 * layer", "1e12 * layer"),
        ("2 * layer", "999999999999 * layer"),
        ("2 * layer", "1000 * (1000 * (1000 * layer))"),
        ("2 * layer", "1e999 * layer"),
        ("2 * layer", "9" * 5000 + " * layer"),
        ("width = 64", "width = 1e18"),
        ("width = 64", "width = 64 / 0"),
        ("4 * swiglu(96)", "1e15 * swiglu(96)"),
        ("top_k(2)", "top_k(" + "(" * 5000 + "2" + ")" * 5000 + ")"),
        ("top_k(2)", "[" * 10_000),
        ("width = 64", "width = " + "1 + " * 100_000 + "1"),
        ("vocab = 256", "vocab = " + "-" * 20_000 + "256"),
        ("width = 64", "width = width"),
        (
            "norm before_mix, before_ffn, last = rms(eps = 1e-5)",
            "norm before_mix, before_ffn, last = last",
        ),
    ],
    ids=range(14),
)
def test_size_bombs_are_refused(old, new):
    assert old in TINY
    assert refused(TINY.replace(old, new))


def test_doubling_is_refused():
    """Each recipe is two of the one before: 2**60 layers in sixty lines."""
    lines = "\n".join(f"  block b{i + 1} {{\n    x = x -> b{i} -> b{i}\n  }}" for i in range(60))
    text = TINY.replace(
        "  input  tokens", f"  block b0 {{\n    x += own(x)\n  }}\n{lines}\n  input  tokens"
    )
    assert refused(text.replace("2 * layer", "b60"))


def test_self_containing_block_is_refused():
    assert refused(TINY.replace("x += own(before_mix(x))", "x += layer(x)"))


def test_long_lines():
    assert refused("# " + "a" * 10 + "\nmodel m { " + "x" * 4_000_000 + " }")
    assert refused("a -> " * 1_000_000)


def test_import_cycles():
    one = 'import b from "two.moe"\nmodel a = b with { width = 8 }\n'
    two = 'import a from "one.moe"\nmodel b = a with { width = 8 }\n'
    spec = 'import a from "one.moe"\nmodel spec = a with { width = 16 }\n'
    assert refused(spec, {"one.moe": one, "two.moe": two})


@pytest.mark.parametrize(
    "path",
    [
        "../secret.moe",
        "/etc/passwd",
        "a/../../secret.moe",
        "..\\secret.moe",
        "C:\\secret.moe",
        "file:///etc/passwd",
        "\x00",
        "",
    ],
    ids=range(8),
)
def test_imports_stay_inside_the_root(path):
    spec = f'import m from "{path}"\nmodel spec = m with {{ width = 16 }}\n'
    assert refused(spec, {"../secret.moe": TINY, "/etc/passwd": TINY, "secret.moe": TINY})


def test_import_bombs():
    files = {
        f"m{i}.moe": f'import m{i + 1} from "m{i + 1}.moe"\nmodel m{i} = m{i + 1} with {{ width = {i + 1} }}\n'
        for i in range(2000)
    }
    compile_in_time('import m0 from "m0.moe"\nmodel spec = m0 with { width = 8 }\n', files)
