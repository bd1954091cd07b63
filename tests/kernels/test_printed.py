"""How the printed routing files read: formatted, nothing unused, nothing of moedsl in them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moedsl.backend.routing_view import FILES, layout
from tests.kernels import views

# Called by the tests as a twin, and by model.py where a router is written out in steps.
FOR_OTHERS = {"grouped_linear", "segment_sum", "count_tokens"}
RUFF = [sys.executable, "-m", "ruff"]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("printed")
    for name in views.ROUTES:
        views.write(views.view(name), folder)
    return folder


def test_formatted_and_clean(printed: Path) -> None:
    settings = ["--isolated", "--line-length", "88"]
    select = ["--select", "B,C4,E,F,I,PIE,RUF,SIM,UP,W", "--target-version", "py311"]
    for command in (["format", "--diff", *settings], ["check", *settings, *select]):
        done = subprocess.run(
            [*RUFF, *command, str(printed)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", views.ROUTES)
def test_nothing_is_unused(name: str, printed: Path) -> None:
    """Every function is public or called, and every parameter is read."""
    package = printed / f"moedsl_{name}"
    texts = {file: (package / file).read_text() for file in FILES}
    everything = "\n".join(texts.values())
    for file, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef) or node.name == "_":
                continue
            public = file in ("routing.py", "experts.py") and ast.get_docstring(node)
            uses = len(re.findall(rf"\b{node.name}\b", everything))
            assert public or uses >= 2 or node.name in FOR_OTHERS, f"{file}: {node.name}"
            check_parameters(file, text, [node, *twins(file, node.name, texts)])


def twins(file: str, name: str, texts: dict[str, str]) -> list[ast.FunctionDef]:
    """The kernel behind a reference, or the other way round: both take what either reads."""
    others = {"kernels.py": "reference.py", "reference.py": "kernels.py"}
    nodes = ast.walk(ast.parse(texts[others[file]])) if file in others else ()
    return [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name]


def check_parameters(file: str, text: str, nodes: list[ast.FunctionDef]) -> None:
    node = nodes[0]
    read = {n.id for each in nodes for n in ast.walk(each) if isinstance(n, ast.Name)}
    # An operator hands its backward what the forward does not read, and a hook has a fixed form.
    is_operator = node.name.endswith("_op") or "ctx" in {a.arg for a in node.args.args}
    for argument in node.args.args:
        assert argument.arg in read or is_operator, f"{file}: {node.name}({argument.arg})"
    assert "\t" not in text


def test_needs_neither_triton_nor_moedsl(printed: Path) -> None:
    script = (
        "import sys; sys.modules['triton'] = None; sys.modules['moedsl'] = None\n"
        f"sys.path.insert(0, {str(printed)!r})\n"
        "import torch\n"
        "from moedsl_deepseek import experts, routing\n"
        "routed = routing.route_sparse(torch.randn(5, 60), torch.zeros(60))\n"
        "plan = routing.dispatch(routed.expert_NK, 60)\n"
        "x = routing.gather_rows(torch.randn(5, 8), plan)\n"
        "y = experts.grouped_linear_bias(x, torch.randn(60, 4, 8), torch.randn(60, 4), plan)\n"
        "assert routing.combine(y, routed.weight_NK, plan).shape == (5, 4)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_routing_has_no_field_that_was_not_asked_for(printed: Path) -> None:
    (plain,) = views.load(printed / "moedsl_plain", "routing")
    assert plain.Routing._fields == ("expert_NK", "weight_NK", "logits_NE")
    (mixed,) = views.load(printed / "moedsl_mixed", "routing")
    assert mixed.AttentionRouting._fields[3:] == ("probability_SE", "tokens_S")
    assert mixed.FeedForwardRouting._fields[3:] == ("entropy_S", "tokens_S")
    assert set(mixed.Routing.__args__) == {mixed.AttentionRouting, mixed.FeedForwardRouting}


def test_layout_breaks_lines_as_the_formatter_does() -> None:
    assert layout("f(", ["a", "b"], ")") == "f(a, b)"
    assert layout("f(", ["a" * 40, "b" * 43], ")") == f"f({'a' * 40}, {'b' * 43})"
    broken = f" function(\n     {'a' * 40}, {'b' * 38}\n )"
    assert layout("function(", ["a" * 40, "b" * 38], ")", 1) == broken
    assert layout("f(", ["a" * 50, "b" * 50], ")") == f"f(\n    {'a' * 50},\n    {'b' * 50},\n)"
