"""Checkpoint maps for tests: specs' entries from text, weights made by hand, and views of both."""

from __future__ import annotations

import re
from collections.abc import Iterable

from moedsl.backend.checkpoint_view import CheckpointView, plan_formats
from moedsl.ir.checkpoint_map import Places
from moedsl.ir.graph import Storage
from moedsl.model.terms import (
    Checkpoint,
    CheckpointEntry,
    Items,
    Number,
    PathPattern,
    Recipe,
    Text,
)
from moedsl.source import Span

_PART = re.compile(r"\[(\w+)\]|(\w+)")


def path(text: str, span: Span) -> PathPattern:
    parts = []
    for index, name in _PART.findall(text):
        parts.append(("index", int(index) if index.isdigit() else index) if index else name)
    return PathPattern(tuple(parts), span)


def step(text: str) -> Recipe:
    """`split(2, 1)`: a count, then an axis."""
    name, *numbers = re.findall(r"\w+", text)
    given = dict(zip(("count", "axis"), map(int, numbers), strict=False))
    if name in ("split", "interleave"):
        given = {"count": 2, "axis": 0, **given}
    return Recipe(name, name, tuple((key, Number(value)) for key, value in given.items()))


def checkpoint(text: str, name: str = "hub", ignore: Iterable[str] = ()) -> Checkpoint:
    """Lines of `path, path = name -> step -> step`; each entry's span is its line."""
    entries = []
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines()))):
        left, right = line.split(" = ")
        file, *steps = right.split(" -> ")
        span = Span(number, number + 1)
        paths = tuple(path(each, span) for each in left.split(", "))
        entries.append(CheckpointEntry(paths, file, tuple(map(step, steps)), span))
    source = Recipe(
        "huggingface",
        "huggingface",
        (("ignore", Items(tuple((None, Text(each)) for each in ignore))),),
    )
    return Checkpoint(name, source, tuple(entries), Span(900, 901))


D, F, V, H, E = 8, 12, 32, 4, 4


def weights(layers: int = 2, sparse: Iterable[int] = (0, 1), **sizes: int) -> list[Storage]:
    """A tiny Mixtral's, with gate and up in one parameter; layers outside of `sparse` are dense."""
    d, f, e = sizes.get("D", D), sizes.get("F", F), sizes.get("E", E)
    found = [Storage("embed", "embed.weight", (V, d))]
    for i in range(layers):
        at, here = f"layer[{i}]", f"layer.{i}"
        found += [Storage(f"{at}.before_mix", f"{here}.before_mix.weight", (d,))]
        for role, rows in (("q", d), ("k", d // 2), ("v", d // 2), ("o", d)):
            found.append(Storage(f"{at}.gqa.{role}", f"{here}.gqa.{role}.weight", (rows, d)))
        found += [Storage(f"{at}.before_ffn", f"{here}.before_ffn.weight", (d,))]
        if i not in sparse:
            for role, shape in (("gate", (f, d)), ("up", (f, d)), ("down", (d, f))):
                found.append(Storage(f"{at}.dense.{role}", f"{here}.dense.{role}.weight", shape))
            continue
        router = f"{here}.sparse.router.score.weight"
        found.append(Storage(f"{at}.sparse.router.score", router, (e, d)))
        bank, module = f"{at}.sparse.experts", f"{here}.sparse.experts"
        for start, role in ((0, "gate"), (f, "up")):
            found.append(
                Storage(
                    f"{bank}.{role}", f"{module}.gate_up", (e, f, d),
                    axis=1, start=start, length=f, bank=True,
                )
            )  # fmt: skip
        found.append(Storage(f"{bank}.down", f"{module}.down", (e, d, f), bank=True))
    return [*found, Storage("last", "last.weight", (d,)), Storage("head", "head.weight", (V, d))]


def places(stored: list[Storage]) -> Places:
    banks = {s.path.rpartition(".")[0] for s in stored if s.bank}
    return Places.made(stored, banks)


COMMON = """
embed = model.embed_tokens.weight
layer[i].before_mix = model.layers.{i}.input_layernorm.weight
layer[i].before_ffn = model.layers.{i}.post_attention_layernorm.weight
layer[i].gqa.q = model.layers.{i}.self_attn.q_proj.weight
layer[i].gqa.k = model.layers.{i}.self_attn.k_proj.weight
layer[i].gqa.v = model.layers.{i}.self_attn.v_proj.weight
layer[i].gqa.o = model.layers.{i}.self_attn.o_proj.weight
layer[i].sparse.router.score = model.layers.{i}.block_sparse_moe.gate.weight
"""
ENDS = """
last = model.norm.weight
head = lm_head.weight
"""
EACH = """
layer[i].sparse.experts[e].gate = model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight
layer[i].sparse.experts[e].down = model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight
layer[i].sparse.experts[e].up = model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight
"""
FUSED = """
layer[i].sparse.experts.gate, layer[i].sparse.experts.up = model.layers.{i}.mlp.experts.gate_up_proj -> split(2, 1)
layer[i].sparse.experts.down = model.layers.{i}.mlp.experts.down_proj
"""
TURNED = """
layer[i].sparse.experts.gate, layer[i].sparse.experts.up = model.layers.{i}.mlp.experts.gate_up_proj -> transpose -> interleave(2, 1)
layer[i].sparse.experts.down = model.layers.{i}.mlp.experts.down_proj -> transpose
"""
BELOW = """
layer[i].sparse.experts[e].gate = blocks.{i}.experts.w1 -> split(4)
layer[i].sparse.experts[e].up = blocks.{i}.experts.v1 -> split(4)
layer[i].sparse.experts[e].down = blocks.{i}.experts.w2 -> split(4) -> transpose
"""
ONE_QKV = """
layer[i].gqa.q, layer[i].gqa.k, layer[i].gqa.v = model.layers.{i}.qkv.weight -> split(3)
"""
DENSE = """
layer[i].dense.gate = model.layers.{i}.mlp.gate_proj.weight
layer[i].dense.up = model.layers.{i}.mlp.up_proj.weight
layer[i].dense.down = model.layers.{i}.mlp.down_proj.weight
"""


def together() -> str:
    """The common part with queries, keys and values in one tensor."""
    kept = [line for line in COMMON.splitlines() if not re.search(r"gqa\.[qkv] ", line)]
    return "\n".join([*kept, *ONE_QKV.splitlines()])


TEXTS = {
    "each": COMMON + EACH + ENDS,
    "fused": COMMON + FUSED + ENDS,
    "turned": COMMON + TURNED + ENDS,
    "below": COMMON + BELOW + ENDS,
    "together": together() + EACH + ENDS,
}


def view(*checkpoints: Checkpoint, stored: list[Storage] | None = None) -> CheckpointView:
    return plan_formats(checkpoints, places(weights() if stored is None else stored))


MAPS = {
    **{name: view(checkpoint(text)) for name, text in TEXTS.items()},
    "names of the model": CheckpointView(),
    "ignoring": view(checkpoint(TEXTS["each"], ignore=("*.inv_freq",))),
    "ignoring much": view(
        checkpoint(TEXTS["each"], ignore=[f"*.some_long_name_of_a_buffer_{i}" for i in range(4)])
    ),
    "several": view(
        checkpoint(TEXTS["each"], "hub"), checkpoint(TEXTS["turned"], "turned", ("*.bias",))
    ),
    "mixed": view(checkpoint(COMMON + DENSE + EACH + ENDS), stored=weights(7, sparse=(1, 3, 5))),
    "pyramid": view(
        checkpoint(COMMON + EACH + ENDS),
        stored=[
            *weights(2),
            *(w for w in weights(3, sparse=(0, 1, 2), F=20) if w.path.startswith("layer[2]")),
        ],
    ),
}
