"""Decisions that a `let` names: worked out after those who use them, who say how many choices there are."""

from __future__ import annotations

from dataclasses import replace

from moedsl.model import banks, foresee
from moedsl.model.run import Run
from moedsl.model.scope import At, Env
from moedsl.model.users import Statements, users
from moedsl.syntax import ast


def decides(run: Run, expr: ast.Expr | None, env: Env) -> bool:
    """Is it a router that is applied? Known before it is worked out, which waits for those who use the decision."""
    match expr:
        case ast.Flow(stages):
            return decides(run, stages[-1], env)
        case ast.Call(callee=callee):
            cls = foresee.target(run, callee, env)[1] or foresee.target(run, expr, env)[1]
        case ast.Path():
            cls = foresee.target(run, expr, env)[1]
        case _:
            return False
    return cls is not None and cls.kind == "router"


def at_decision(at: At, name: str, after: Statements) -> At:
    """Where the decision of this name is worked out: `choices` is how many experts its users have, if they agree."""
    sizes = {banks.size(dict(one.settings).get("experts")) for one in users(name, after)}
    return replace(at, choices=sizes.pop()) if len(sizes) == 1 else at
