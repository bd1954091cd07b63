"""Shapes of models that the gallery does not have: printed clean, and they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moedsl.pipeline import compile
from moedsl.source import Source
from tests.packages import SPECS, compiled, imported, model_class

CONFIG = Path(__file__).parent.parent / "golden_ruff.toml"

PARTS = """
  vocab = 256
  width = 64
  norm before_mix, before_ffn, last = rms(eps = 1e-5)
  attention own {
    heads = 4
    q, k = linear -> rope(theta = 1e4)
  }
  attention near = own with { window = 4 }
  router top1 {
    score = linear
    select = top_k(1)
    weigh = score -> sigmoid
  }
  moe sparse {
    router = top1
    experts = 4 * swiglu(32)
    loss = balance(1e-2)
  }
  block layer {
    x += own(before_mix(x))
    x += sparse(before_ffn(x))
  }
  block plain(mix) {
    x += mix(before_mix(x))
    x += swiglu(96)(before_ffn(x))
  }
  input tokens = ids(vocab)
"""

BODIES = {
    "layers in layers": "block tower { x = x -> 2 * layer }\noutput logits = tokens -> embed -> 3 * tower -> last -> head",
    "dense": "output logits = tokens -> embed -> 2 * plain(own) -> last -> head",
    "in turn": "output logits = tokens -> embed -> 3 * (plain(own) -> layer) -> last -> head",
    "stretches": "output logits = tokens -> embed -> plain(near) -> 2 * layer -> last -> head",
    "names that are taken": "block train { x += sparse(before_ffn(x)) }\n"
    "output logits = tokens -> embed -> 2 * train -> last -> head",
}


def files(body: str) -> dict[str, str]:
    result = compile(Source(f"# A model.\n\nmodel odd {{{PARTS}  {body}\n}}\n", "odd.moe"))
    assert result.ok, [d.message for d in result.diagnostics]
    return result.files


@pytest.mark.parametrize("name", BODIES)
def test_runs(name):
    torch = pytest.importorskip("torch")
    model = model_class(imported(files(BODIES[name])))()
    model.init_weights(seed=0)
    output = model(torch.arange(2 * 9).view(2, 9))
    (output.logits.square().sum() + sum(output.losses.values())).backward()
    assert all(p.grad is not None for p in model.parameters())
    for path, routing in output.routing.items():
        model.get_submodule(path)
        assert routing.expert_NK.shape[0] == 18


def test_clean(tmp_path):
    texts = {name: files(body) for name, body in BODIES.items()}
    texts |= {path.stem: compiled(path.stem).files for path in sorted(SPECS.glob("*.moe"))}
    for name, own in texts.items():
        for path, text in own.items():
            target = tmp_path / name.replace(" ", "_") / path
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
    for command in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "ruff",
                *command,
                "--no-cache",
                "--config",
                str(CONFIG),
                str(tmp_path),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
