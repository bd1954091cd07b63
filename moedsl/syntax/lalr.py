"""The LALR parser: shift and reduce by the tables of grammar/moe.tables.json, one lexeme at a time, and back again."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from moedsl.resources import read_text
from moedsl.syntax.build import Build
from moedsl.syntax.lexer import Lexeme, scanner
from moedsl.syntax.tables import Tables, checksum, make

END = "$END"

Mark = tuple[list[int], list[Any]]


class _Rule(NamedTuple):
    """`make` is None where the one child stands for itself. `goes`: by the state below, the state to go on in."""

    size: int
    make: Callable[[list[Any]], Any] | None
    goes: dict[int, int]


class _Grammar(NamedTuple):
    terminals: dict[str, str]
    reads: list[dict[str, int]]
    rules: list[_Rule]
    starts: dict[str, list[int]]


def read_tables() -> Tables:
    """The tables that travel with moedsl; where the grammar was edited since, those that Lark makes of it now."""
    grammar = read_text("grammar", "moe.lark")
    try:
        tables: Tables = json.loads(read_text("grammar", "moe.tables.json"))
    except (FileNotFoundError, ValueError):
        return make(grammar)
    return tables if tables["grammar"] == checksum(grammar) else make(grammar)


@cache
def _grammar() -> _Grammar:
    tables = read_tables()
    goes: dict[str, dict[int, int]] = defaultdict(dict)
    for state, row in enumerate(tables["states"]):
        for name, target in row["goes"].items():
            goes[name][state] = target
    build = Build()
    rules = [
        _Rule(rule["size"], _maker(rule, build), goes[rule["rule"]]) for rule in tables["rules"]
    ]
    reads = [row["reads"] for row in tables["states"]]
    return _Grammar(tables["terminals"], reads, rules, tables["starts"])


def _maker(rule: dict[str, Any], build: Build) -> Callable[[list[Any]], Any] | None:
    """From all the values that a rule takes to the one that stands for them."""
    if "only" in rule:
        only = rule["only"]
        return None if rule["size"] == 1 else lambda values: values[only]
    keep, spread = rule["keep"], set(rule["spread"])
    make: Callable[[list[Any]], Any] = getattr(build, rule["build"]) if rule["build"] else _itself
    if not spread:
        if len(keep) == rule["size"]:
            return make
        return lambda values: make([values[i] for i in keep])

    def spreading(values: list[Any]) -> Any:
        # A list that comes first is added to, not copied: what repeats would take the square of its length.
        kept = values[keep[0]] if keep[0] in spread else [values[keep[0]]]
        for i in keep[1:]:
            if i in spread:
                kept += values[i]
            else:
                kept.append(values[i])
        return make(kept)

    return spreading


def _itself(values: list[Any]) -> list[Any]:
    return values


@cache
def pattern() -> re.Pattern[str]:
    """What the lexer looks for: the terminals of the grammar, and slips."""
    return scanner(_grammar().terminals)


class Parser:
    """A stack of states and one of values. Lexemes are fed to it; a mark is a place to return to."""

    def __init__(self, start: str) -> None:
        self.start = start
        grammar = _grammar()
        self._reads, self._rules = grammar.reads, grammar.rules
        first, self._end = grammar.starts[start]
        self._states: list[int] = [first]
        self._values: list[Any] = []

    def feed(self, lexeme: Lexeme) -> bool:
        """Whether it may come next. Where it may not, all that ends in front of it has been put together already."""
        kind = lexeme[0]
        states, values, reads, rules = self._states, self._values, self._reads, self._rules
        while True:
            action = reads[states[-1]].get(kind)
            if action is None:
                return kind == END and states[-1] == self._end
            if action >= 0:
                states.append(action)
                values.append(lexeme)
                return True
            size, make, goes = rules[~action]
            if make is None:
                states[-1] = goes[states[-2]]
                continue
            if size:
                taken = values[-size:]
                del states[-size:], values[-size:]
            else:
                taken = []
            states.append(goes[states[-1]])
            values.append(make(taken))

    @property
    def result(self) -> Any:
        """The tree, once END was fed."""
        return self._values[-1]

    def takes(self, kind: str) -> bool:
        """Whether such a lexeme may come next, as far as the table of this state tells."""
        return kind in self._reads[self._states[-1]]

    def accepts(self) -> set[str]:
        """All that may come next, tried one by one."""
        return {kind for kind in self._reads[self._states[-1]] if self._fits(kind)}

    def _fits(self, kind: str) -> bool:
        states = self._states[:]
        while (action := self._reads[states[-1]].get(kind)) is not None:
            if action >= 0:
                return True
            size, _, goes = self._rules[~action]
            if size:
                del states[-size:]
            states.append(goes[states[-1]])
        return kind == END and states[-1] == self._end

    def mark(self) -> Mark:
        return self._states[:], self._values[:]

    def return_to(self, mark: Mark) -> None:
        self._states, self._values = mark[0][:], mark[1][:]
