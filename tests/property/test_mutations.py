"""Mutated specs: the compiler never raises, never hangs, and always answers: a located diagnostic, or a package whose
every file is Python that parses. 4,000 mutants by default (MOEDSL_MUTANTS), split over the specs; each has a seed of its own, so a
failure names the mutant that shows it again: `mutate(original, Random("moedsl tiny 17"))`."""

from __future__ import annotations

import ast
import os
import random
import time

import pytest

import moedsl.pipeline
from moedsl.source import Source
from tests.packages import SPECS

FILES = {path.name: path.read_text() for path in sorted(SPECS.glob("*.moe"))}
TOTAL = int(os.environ.get("MOEDSL_MUTANTS", "4000"))
SECONDS = 2.0
NAMES = sorted(path.stem for path in SPECS.glob("*.moe"))
EACH = TOTAL // len(NAMES)
CHUNK = 250  # mutants of one test: two workers stay busy to the end
WORDS = (
    "x", "index", "choices", "0", "-1", "1e9", "12.5%", "none", "true", "causal", "linear", "softmax", "top_k(2)",
    "->", "+=", "->=", "=", "+", "*", "/", "(", ")", "[", "]", "{", "}", ",", ".", '"', "#", "\n", "with", "let ",
    "tied ", "block ", "moe ", "norm ", "4 * ", "by_layer([1, 2])", "phase(train = 1, eval = 2)", "swiglu(8)", "embed",
)  # fmt: skip


def mutate(text: str, random_: random.Random) -> str:
    """One to four edits: a line dropped, doubled or swapped, a token replaced, inserted or cut."""
    for _ in range(random_.randint(1, 4)):
        lines = text.split("\n")
        at, other = random_.randrange(len(lines)), random_.randrange(len(lines))
        place = random_.randrange(len(text) + 1)
        match random_.randrange(6):
            case 0:
                del lines[at]
                text = "\n".join(lines)
            case 1:
                lines.insert(at, lines[other])
                text = "\n".join(lines)
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
                text = "\n".join(lines)
            case 3:
                text = text[:place] + random_.choice(WORDS) + text[place:]
            case 4:
                text = text[:place] + text[place + random_.randint(1, 12) :]
            case 5:
                words = text.split(" ")
                words[random_.randrange(len(words))] = random_.choice(WORDS)
                text = " ".join(words)
        if not text:
            return text
    return text


@pytest.mark.parametrize("start", range(0, EACH, CHUNK))
@pytest.mark.parametrize("name", NAMES)
def test_mutants_are_answered(name, start):
    original = (SPECS / f"{name}.moe").read_text()
    numbers = range(start, min(start + CHUNK, EACH))
    answers = [answered(name, number, original) for number in numbers]
    assert any(answers), "some mutants are harmless: if none compiled, the test shows nothing"


def answered(name: str, number: int, original: str) -> bool:
    """Whether the mutant compiled; both answers are held to what they promise."""
    text = mutate(original, random.Random(f"moedsl {name} {number}"))
    started = time.process_time()
    result = moedsl.pipeline.compile(Source(text, f"{name}.moe", {**FILES, f"{name}.moe": text}))
    seconds = time.process_time() - started
    where = f"{name}, mutant {number}:\n{text}"
    assert seconds < SECONDS, f"{seconds:.1f} s for {where}"
    for diagnostic in result.diagnostics:
        span = diagnostic.primary.span
        there = text if span.file in ("", f"{name}.moe") else FILES[span.file]
        assert 0 <= span.start <= span.end <= len(there) + 1, f"{diagnostic} is nowhere in {where}"
        assert diagnostic.message, where
    if not result.ok:
        assert not result.files, where
        return False
    assert result.files, f"neither a diagnostic nor a package for {where}"
    for path, code in result.files.items():
        if path.endswith(".py"):
            ast.parse(code, path)
    return True
