"""What the plan breaks, `ruff format` leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from moedsl.backend.plan_lines import call_lines, indented, prose, split_items, statement_lines

LONG = [f"argument_number_{n}" for n in range(8)]

STATEMENTS = {
    "short": "x_BTD = self.embed(tokens_BT)",
    "call": "x_BTD, routed = self.run(layer, x_BTD, rotary, attention_mask, real_N, cache_of_it)",
    "long call": f"x_BTD = self.run({', '.join(LONG)})",
    "sum": f"x_BTD = {LONG[0]} * {LONG[1]} + {LONG[2]} * {LONG[3]} + {LONG[4]} * {LONG[5]}",
    "tuple": f"return self.run({', '.join(LONG[:3])}), self.run({', '.join(LONG[:2])})",
    "nested": f"return Output(self.head({', '.join(LONG[:3])}), self.loss({', '.join(LONG[:4])}))",
    "dictionary": 'routing = {f"layer.{i}.mixture_of_experts": r for i, r in enumerate(a_mixture, 12)}',
    "list": f"self.layer = nn.ModuleList([*(Dense() for _ in range(3)), {', '.join(LONG[:5])}])",
}


def formatted(text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--no-cache", "--line-length", "88", "-"],
        input=text,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_statements_are_formatted():
    bodies = [
        f"def f{n}(self):\n    if self:\n"
        + "\n".join(indented(statement_lines(statement, 2), 2))
        + "\n"
        for n, statement in enumerate(STATEMENTS.values())
    ]
    text = "\n\n".join(bodies)
    assert formatted(text) == text


@pytest.mark.parametrize("count", (1, 3, 4, 8))
def test_signatures_are_formatted(count):
    lines = call_lines("def forward", ["self", *LONG[:count]], " -> Output:", 1)
    text = "\n".join(["class A:", *indented(lines), *indented(["pass"], 2)]) + "\n"
    assert formatted(text) == text


def test_imports_are_formatted():
    lines = call_lines("from .routing import ", LONG, brackets=False)
    text = "\n".join(lines) + "\n"
    assert formatted(text) == text


def test_items_are_split_outside_brackets():
    assert split_items("a, b(c, d), {e: f, g: h}") == ["a", "b(c, d)", "{e: f, g: h}"]
    assert split_items("f'a, b'") == []


def test_prose_leaves_room_for_the_quotes():
    lines = prose("word " * 40, depth=1, first=3)
    assert len(lines[0]) <= 81 and all(len(line) <= 84 for line in lines)
