"""Another package adds a construct through the entry point group, with no change here."""

from __future__ import annotations

import subprocess
import sys
import textwrap

DECLARATION = '''
from moedsl.constructs.declare import Construct, Number
from moedsl.ir.ops import Pointwise


class Squashed(Construct):
    """Softsign, x / (1 + |x|) (a construct of somebody else's)."""

    kind = "activation"

    def lower(self, build, x):
        return build.op(Pointwise(function="F.softsign"), x)
'''

SPEC = """
model m {
  vocab = 256
  width = 16
  norm before = rms()
  block layer { x += (linear(32) -> squashed -> linear(16))(before(x)) }
  input  tokens = ids(vocab)
  output logits = tokens -> embed -> 2 * layer -> head
}
"""

PROGRAM = """
import sys
import moedsl.pipeline
from moedsl.constructs.registry import constructs
from moedsl.source import Source

assert "squashed" in constructs(), "the entry point was not loaded"
result = moedsl.pipeline.compile(Source(sys.stdin.read()))
assert result.ok, result.diagnostics
print([line for text in result.files.values() for line in text.splitlines() if "softsign" in line])
"""


def test_a_third_party_construct(tmp_path):
    (tmp_path / "squash_moe.py").write_text(DECLARATION)
    info = tmp_path / "squash_moe-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: squash-moe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[moedsl.constructs]\nsquash = squash_moe\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=textwrap.dedent(SPEC),
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{sys.path[0] or '.'}:."},
    )
    assert done.returncode == 0, done.stderr
    assert "F.softsign(" in done.stdout
