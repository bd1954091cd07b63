"""Real English that every Python has: the reference texts behind `help()`, as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.frozen import frozen

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = 256
HELD_OUT = 8  # every eighth text is kept from training


@frozen
class Corpus:
    """Bytes as int64 tokens. `held_out` is made of whole texts that training never sees."""

    train: Tensor
    held_out: Tensor
    texts: int

    def windows(self, length: int, most: int) -> Tensor:
        """Held-out text cut into [n, length + 1], evenly spread where there are more than `most`."""
        cut = self.held_out[: self.held_out.numel() // (length + 1) * (length + 1)].view(
            -1, length + 1
        )
        step = max(1, cut.shape[0] // most)
        return cut[::step][:most]


def python_reference() -> Corpus:
    """`pydoc_data.topics` of the running Python: some 450 KB of technical prose."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    held_out = names[HELD_OUT // 2 :: HELD_OUT]
    kept = [name for name in names if name not in held_out]
    return Corpus(
        train=_tokens([topics[name] for name in kept]),
        held_out=_tokens([topics[name] for name in held_out]),
        texts=len(names),
    )


def _tokens(texts: list[str]) -> Tensor:
    import torch

    joined = "\n\n".join(texts).encode()
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).long()


class Batches:
    """Random windows of the training text, the same ones in the same order for one seed."""

    def __init__(self, text: Tensor, size: int, length: int, seed: int) -> None:
        import torch

        self.text, self.size, self.length = text, size, length
        self.generator = torch.Generator().manual_seed(seed)

    def next(self) -> Tensor:
        """[size, length + 1]: inputs are all but the last column, targets all but the first."""
        import torch

        last = self.text.numel() - self.length - 1
        starts = torch.randint(0, last + 1, (self.size,), generator=self.generator)
        return self.text[starts[:, None] + torch.arange(self.length + 1)]
