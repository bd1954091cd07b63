"""The tables of the parser, made from grammar/moe.lark by Lark: `make grammar` writes them beside it.

They travel with moedsl, so that reading a spec neither imports Lark nor has it work out the same tables once more,
which takes longer than all the rest of a check.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moedsl.resources import read_text

if TYPE_CHECKING:
    from lark import Lark
    from lark.grammar import Rule

Tables = dict[str, Any]
STARTS = ("start", "expression")


def checksum(grammar: str) -> str:
    """Tells an edited grammar from the one that tables were made of."""
    return f"{zlib.crc32(grammar.encode()):08x}"


def make(grammar: str) -> Tables:
    """What moedsl/syntax/lalr.py reads.

    terminals: the pattern of each.
    rules:     what is done at the end of each, see `_rule`.
    starts:    for each start symbol, the state it begins in and the one that ends it.
    states:    `reads`: by terminal, the state to go on in, or -1 - the rule that ends here;
               `goes`: by the name of a rule that ended, the state to go on in.
    """
    from lark import Lark

    lark = Lark(grammar, parser="lalr", lexer="basic", start=list(STARTS), maybe_placeholders=False)
    table = lark.parser.parser.parser.parse_table
    order = _order(table)
    number = {state: i for i, state in enumerate(order)}
    rules = {rule: i for i, rule in enumerate(lark.rules)}
    states = []
    for state in order:
        reads: dict[str, int] = {}
        goes: dict[str, int] = {}
        for symbol, (action, target) in sorted(table.states[state].items()):
            if action.name == "Reduce":
                reads[symbol] = -1 - rules[target]
            else:
                (reads if symbol.isupper() else goes)[symbol] = number[target]
        states.append({"reads": reads, "goes": goes})
    return {
        "grammar": checksum(grammar),
        "terminals": {t.name: t.pattern.to_regexp() for t in _terminals(lark)},
        "rules": [_rule(rule) for rule in lark.rules],
        "starts": {
            name: [number[table.start_states[name]], number[table.end_states[name]]]
            for name in STARTS
        },
        "states": states,
    }


def _terminals(lark: Lark) -> list[Any]:
    return sorted((each for each in lark.terminals if each.pattern), key=lambda each: each.name)


def _order(table: Any) -> list[int]:
    """All states, near ones first: Lark's own numbers differ from run to run."""
    found = dict.fromkeys(table.start_states[name] for name in STARTS)
    queue = deque(found)
    while queue:
        for _, (action, target) in sorted(table.states[queue.popleft()].items()):
            if action.name == "Shift" and target not in found:
                found[target] = None
                queue.append(target)
    return list(found)


def _rule(rule: Rule) -> dict[str, Any]:
    """`size`: how many values it takes off the stack; then one of

    only:  the index of the value that stands for all of them, as in `?sum: product`;
    build: the method of `Build` that makes one of them, of those at `keep`. `spread` are those that are lists and give
           their items. "" is the list itself, where the rule is part of another: `_argument`, and what repeats.
    """
    size = len(rule.expansion)
    kept = [
        i
        for i, symbol in enumerate(rule.expansion)
        if rule.options.keep_all_tokens or not getattr(symbol, "filter_out", False)
    ]
    spread = [
        i for i in kept if not rule.expansion[i].is_term and rule.expansion[i].name.startswith("_")
    ]
    entry = {"rule": rule.origin.name, "size": size}
    if rule.options.expand1 and not rule.alias:
        if spread:
            raise ValueError(
                f"?{rule.origin.name}: the parser knows no `?rule` with parts of _rules"
            )
        if len(kept) == 1:
            return {**entry, "only": kept[0]}
    name = rule.alias or ("" if rule.origin.name.startswith("_") else rule.origin.name)
    return {**entry, "build": name, "keep": kept, "spread": spread}


def spell(tables: Tables) -> str:
    """As JSON, a line for each rule and state."""
    parts = []
    for name, part in tables.items():
        if isinstance(part, list):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in part)
            parts.append(f'"{name}": [\n{rows}\n]')
        elif isinstance(part, dict):
            rows = ",\n".join(f'  "{key}": {json.dumps(row)}' for key, row in part.items())
            parts.append(f'"{name}": {{\n{rows}\n}}')
        else:
            parts.append(f'"{name}": {json.dumps(part)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(spell(make(read_text("grammar", "moe.lark"))), encoding="utf-8")
