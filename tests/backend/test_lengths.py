"""One compiled graph serves all lengths: whatever a length decides is decided by a branch or by whole numbers."""

from __future__ import annotations

import pytest

from moedsl.pipeline import compile
from moedsl.source import Source
from tests.packages import imported, model_class

torch = pytest.importorskip("torch")

MODEL = """
model odd {
  vocab = 32
  width = 16
  norm before, after = rms(eps = 1e-5)
  attention own {
    %s
  }
  router pick {
    score = linear
    select = top_k(2)
    %s
  }
  block layer {
    x += own(before(x))
    x += moe(router = pick, experts = 4 * linear)(after(x))
  }
  input tokens = ids(vocab)
  output logits = tokens -> embed -> layer -> head
}
"""
CASES = {
    "room": ("heads = 4", "capacity = room(1.25, round = nearest)"),
    "distances": ("heads = 4\n scores = dot + relative(buckets = 8, max_distance = 16)", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_lengths_vary(case: str) -> None:
    result = compile(Source(MODEL % CASES[case], "odd.moe"))
    assert result.ok, [d.message for d in result.diagnostics]
    model = model_class(imported(result.files))().eval()
    model.init_weights(seed=0)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    frames = []
    for length in (9, 14, 5):
        ids = torch.arange(2 * length).view(2, length) % 32
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits)
        frames.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert len(set(frames)) == 1, "another length is compiled anew"
