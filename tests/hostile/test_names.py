"""Names that mean something in Python or torch, names that look like others, and places that names cannot stand in."""

from __future__ import annotations

import random
import re
import string

import pytest

from moedsl.constructs.registry import constructs
from tests.hostile.answers import answered
from tests.packages import SPECS, imported, model_class

TINY = (SPECS / "tiny.moe").read_text()

TAKEN = (
    "class", "def", "lambda", "None", "True", "async", "print", "len", "type", "super", "object", "self", "cls",
    "torch", "nn", "F", "Tensor", "forward", "train", "eval", "parameters", "modules", "to", "state_dict", "weight",
    "bias", "init_weights", "run", "Output", "Routing", "Cache", "Rotary", "generate", "load_checkpoint", "mask",
    "cache", "rotary", "real_N", "rows", "routing", "losses", "x_BTD", "tokens_BT", "expert", "weight_NK", "experts",
    "router", "shared", "seed", "_", "__init__", "__class__", "_x", "x1", "n0", "N", "B", "wide", "dispatch", "combine",
    "attend", "rotate", "math", "on", "with", "from", "import", "model", "block", "let", "tied",
    # What the spec itself or the language means by it is refused: these stand together.
    "logits", "score", "layer", "index", "choices", "x", "embed", "head", "q", "linear", "softmax",
)  # fmt: skip

# What gets the name, and all its mentions.
THINGS = {
    "a mixture": "sparse",
    "an attention": "own",
    "a router": "top2",
    "a norm": "before_mix",
    "a block": "layer",
    "an input": "tokens",
    "an output": "logits",
    "the model": "tiny",
}
# One body with a place for a name of each of four kinds: a let, a parameter of a block, a setting, a tied module.
BODY = (
    TINY.replace("block layer {", "block layer(PARAMETER) {")
    .replace(
        "x += sparse(before_ffn(x))",
        "let LET = before_ffn(x)\n    tied TIED = linear\n    x += TIED(x)\n    x += PARAMETER(LET)",
    )
    .replace("2 * layer", "2 * layer(sparse)")
    .replace("width = 64", "width = 64\n  SETTING = 4")
    .replace("4 * swiglu", "SETTING * swiglu")
)
PLACES = {"LET": "a_let", "PARAMETER": "a_parameter", "SETTING": "a_setting", "TIED": "a_tied"}


def ran(text: str) -> bool:
    """Whether it compiled; what did can be run."""
    result = answered(text)
    if not result.ok:
        return False
    torch = pytest.importorskip("torch")
    made = model_class(imported(result.files))()
    made.init_weights(seed=0)
    made(torch.zeros(1, 4, dtype=torch.long))
    return True


def written(text: str, names: dict[str, str]) -> str:
    return re.sub(rf"\b({'|'.join(names)})\b", lambda found: names[found[0]], text)


def renamed(text: str, places: dict[str, str], names: dict[str, str]) -> bool:
    """Run with these names at once. A name that is refused would hide the others: then by halves, down to each alone."""
    try:
        if ran(written(text, places | names)) or len(names) == 1:
            return True
    except Exception as error:
        raise AssertionError(f"named {names}: {error!r}") from error
    half = list(names.items())[: len(names) // 2]
    rest = list(names.items())[len(names) // 2 :]
    return renamed(text, places, dict(half)) and renamed(text, places, dict(rest))


def shifted(places: dict[str, str], row: int) -> dict[str, str]:
    """A name for each place; over all rows each place gets every name once."""
    return {place: TAKEN[(row + i) % len(TAKEN)] for i, place in enumerate(places)}


ROWS = range(0, len(TAKEN), 10)


@pytest.mark.parametrize("start", ROWS)
def test_taken_names_of_things(start):
    # What stands in the text already is the plain name.
    plain = {name: name for name in THINGS.values()}
    for row in range(start, min(start + 10, len(TAKEN))):
        renamed(TINY, plain, shifted(plain, row))


@pytest.mark.parametrize("start", ROWS)
def test_taken_names_inside_bodies(start):
    for row in range(start, min(start + 10, len(TAKEN))):
        renamed(BODY, PLACES, shifted(PLACES, row))


def test_plain_names_run():
    assert ran(TINY)
    assert ran(written(BODY, PLACES))


LOOKALIKES = ("ѕparse", "spаrse", "ｓｐａｒｓｅ", "s\u200bparse", "spa\u0301rse", "ſparse", "sparse\u202e", "٤", "４", "−1", "→", "“a”", "\u00a0", "\u2028", "\ufeff", "\x00", "\x1b[31m", "🙂", "\ud800")  # fmt: skip


@pytest.mark.parametrize("text", LOOKALIKES, ids=ascii)
def test_lookalikes_are_named(text):
    """Each is refused where it stands as a name, a number and a sign, and stays text in a comment."""
    for old in ("sparse", "4 * swiglu", "->", "norm "):
        assert not answered(TINY.replace(old, text, 1)).ok
        assert not answered(TINY.replace(old, old + text, 1)).ok or not text.strip("\u00a0\ufeff")
    answered(TINY.replace("# The smallest", f"# {text}"))


def test_deep_with_chains():
    for depth in (10, 60, 150, 1000):
        answered(
            TINY.replace("= 4 * swiglu(96)", "= 4 * swiglu(96)" + " with { hidden = 8 }" * depth)
        )
        nested = "swiglu(96) with { gate = " * depth + "linear" + " }" * depth
        answered(TINY.replace("swiglu(96)", nested))
        chain = "".join(
            f"model m{i + 1} = m{i} with {{ width = {64 + 8 * i} }}\n" for i in range(depth)
        )
        answered(f"{TINY.replace('model tiny', 'model m0')}\n{chain}")


def test_chains_of_recipes():
    for depth in (10, 100, 1000):
        chain = "".join(f"  ffn f{i + 1} = f{i}\n" for i in range(depth))
        text = TINY.replace("  moe sparse", f"  ffn f0 = swiglu(96)\n{chain}  moe sparse")
        answered(text.replace("4 * swiglu(96)", f"4 * f{depth}"))
        chain = "".join(f"  ffn f{i + 1} = f{i} -> linear(64)\n" for i in range(depth))
        text = TINY.replace("  moe sparse", f"  ffn f0 = swiglu(96)\n{chain}  moe sparse")
        answered(text.replace("sparse(before_ffn(x))", f"f{depth}(before_ffn(x))"))


@pytest.mark.parametrize(
    "blocks",
    [
        "block a(f) { x += f(x) }\n block b(f) { x = x -> a(f) -> b(f) }",
        "block b(f) { x = x -> f(f) }",
        "block b(f = b) { x = x -> f }",
        "block b(f = g, g = f) { x += f(x) }",
        "block b(f) { x = x -> b(b(f)) }",
        "block a(f) { x = x -> f(a) }\n block b(f) { x = x -> a(b) }",
        "block b(f, f) { x += f(x) }",
        "block b(x) { x += x }",
        "block b(index) { x += index(x) }",
        "block b(f) { block b(f) { x += f(x) }\n x = x -> b(f) }",
        "block b(f) { tied g = f\n x += g(x)\n x += g(x)\n x = x -> b(g) }",
    ],
)
def test_parameters_that_meet_themselves(blocks):
    for use in ("own", "b", "layer", "2 * own", "x", "3", "", "f = b", "own, own, own", "b(own)"):
        answered(TINY.replace("  input", f"  {blocks}\n  input").replace("2 * layer", f"b({use})"))


def test_checkpoint_patterns():
    random_ = random.Random("moedsl checkpoints")
    parts = (
        "layer", "own", "sparse", "q", "k", "gate", "experts", "router", "score", "embed", "before_mix", "weight", "nothing",
    )  # fmt: skip
    indices = (
        "[i]", "[e]", "[0]", "[1:2]", "[i, e]", "[", "]", "[-1]", "[99]", "[i][i]", ".[q, k]", ".[gate, up]", "", "", "",
    )  # fmt: skip
    names = (
        "a.{i}.b", "{i}.{e}", "{", "}", "{}", "{{i}}", "{0}", "{i!r}", "{i.__class__}", "a", "", "[q, k]", "[", "\\", "{j}", "%s", "../a",
    )  # fmt: skip
    steps = (
        "", " -> split(2)", " -> stack", " -> transpose", " -> interleave(2)", " -> linear", " -> split(0)", " -> split(x)", " -> 3",
    )  # fmt: skip
    for number in range(400):
        lines = []
        for _ in range(random_.randint(1, 4)):
            path = ".".join(
                random_.choice(parts) + random_.choice(indices)
                for _ in range(random_.randint(1, 4))
            )
            lines.append(f'    {path} = "{random_.choice(names)}"{random_.choice(steps)}')
        kept = random_.choice(
            ("", "ignore = [1]", "names = file", "names = memory", 'ignore = ["a"]', "names = 3")
        )
        body = "\n".join(lines)
        text = (
            TINY.rstrip().removesuffix("}")
            + f"  checkpoint hub = huggingface({kept}) {{\n{body}\n  }}\n}}\n"
        )
        try:
            answered(text)
        except Exception as error:
            raise AssertionError(f"{number}: {error!r} for\n{body}") from error


def test_noise():
    """Characters at random, and words of the language at random."""
    random_ = random.Random("moedsl noise")
    words = [
        *constructs(),
        "model",
        "block",
        "moe",
        "norm",
        *"{}()[]=+*,.x#",
        "+=",
        "->=",
        "->",
        "1",
        "2.5",
        "12%",
        "\n",
        '"',
    ]
    for _ in range(300):
        answered("".join(random_.choice(string.printable) for _ in range(random_.randint(0, 300))))
        answered(" ".join(random_.choice(words) for _ in range(random_.randint(0, 80))))
        answered("model m {\n" + " ".join(random_.choice(words) for _ in range(40)) + "\n}")
