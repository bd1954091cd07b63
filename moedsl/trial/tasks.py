"""What models are trained on, by what they take in: text, text whose beginning is another stream, drawn pictures.

A batch is what the model takes, in the order of its inputs, and the classes that its logits are about.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

from moedsl.frozen import frozen
from moedsl.trial.data import Batches, Corpus, python_reference

if TYPE_CHECKING:
    from torch import Tensor

    Batch = tuple[Tensor, ...]

WINDOWS = 64  # of held-out text, the same ones every time
PICTURES = 256  # held out
APART = 2**62 + 1  # the seed of held-out pictures, which no trial will be given
AT_ONCE = 8  # held-out examples of a forward pass


@frozen
class Task:
    """`unit`: what a loss and a cost are of, and what `length` of them stand in an example."""

    unit: ClassVar[str]
    units: ClassVar[str]

    def source(self, size: int, length: int, seed: int) -> Examples:
        """Batches of `size`, the same ones in the same order for one seed."""
        raise NotImplementedError

    def held_out(self, length: int) -> list[Batch]:
        raise NotImplementedError

    def about(self) -> str:
        """What it is trained on and what is held out, in a sentence."""
        raise NotImplementedError


class Examples:
    """Batches without an end."""

    def next(self) -> Batch:
        raise NotImplementedError


@frozen
class Text(Task):
    """The next byte, at every place."""

    corpus: Corpus

    unit = "byte"
    units = "bytes"

    def source(self, size: int, length: int, seed: int) -> Examples:
        return _Windows(self, Batches(self.corpus.train, size, self.whole(length), seed))

    def held_out(self, length: int) -> list[Batch]:
        windows = self.corpus.windows(self.whole(length), WINDOWS)
        return [self.cut(some) for some in windows.split(AT_ONCE)]

    def whole(self, length: int) -> int:
        """Bytes of a window, but for the last, which is only predicted."""
        return length

    def cut(self, window: Tensor) -> Batch:
        return window[:, :-1], window[:, 1:]

    def about(self) -> str:
        corpus = self.corpus
        return (
            f"{corpus.texts} texts of Python's own reference (pydoc_data.topics), read byte by byte: "
            f"{corpus.train.numel():,} bytes to train on, {corpus.held_out.numel():,} held out as whole texts"
        )


@frozen
class Continued(Text):
    """The next byte of the second half of a window, whose first half is the other stream. `main`: which input goes on."""

    main: int = 1

    def whole(self, length: int) -> int:
        return 2 * length

    def cut(self, window: Tensor) -> Batch:
        length = window.shape[1] // 2
        streams = [window[:, :length], window[:, length:-1]]
        return *(streams if self.main else streams[::-1]), window[:, length + 1 :]

    def about(self) -> str:
        return f"{super().about()}; the first half of each window is read, the second predicted"


@frozen
class Pictures(Task):
    """Which of ten shapes a picture shows: drawn for the trial, of any size, place, colours and noise."""

    channels: int
    height: int
    width: int

    unit = "picture"
    units = "pictures"

    def source(self, size: int, length: int, seed: int) -> Examples:
        return _Drawn(self, size, seed)

    def held_out(self, length: int) -> list[Batch]:
        drawn = _Drawn(self, AT_ONCE, APART)
        return [drawn.next() for _ in range(PICTURES // AT_ONCE)]

    def about(self) -> str:
        return (
            f"pictures of {self.channels} x {self.height} x {self.width} drawn for the trial, each of one of "
            f"{len(SHAPES)} shapes, anew for every step; {PICTURES} are held out"
        )


@cache
def text_task() -> Text:
    """Of the running Python: read once for all contestants."""
    return Text(python_reference())


class _Windows(Examples):
    def __init__(self, task: Text, batches: Batches) -> None:
        self.task, self.batches = task, batches

    def next(self) -> Batch:
        return self.task.cut(self.batches.next())


SHAPES = (
    "disc", "ring", "square", "frame", "diamond", "cross", "saltire", "rows", "columns", "checkers",
)  # fmt: skip


class _Drawn(Examples):
    def __init__(self, task: Pictures, size: int, seed: int) -> None:
        import torch

        self.task, self.size = task, size
        self.generator = torch.Generator().manual_seed(seed)

    def next(self) -> Batch:
        import torch

        def draw(*shape: int) -> Tensor:
            return torch.rand(self.size, *shape, generator=self.generator)

        task = self.task
        label = torch.randint(len(SHAPES), (self.size,), generator=self.generator)
        radius = 0.2 + 0.15 * draw(1, 1)
        middle = 0.35 + 0.3 * draw(2, 1, 1)
        y = (torch.linspace(0, 1, task.height)[:, None] - middle[:, 0]) / radius
        x = (torch.linspace(0, 1, task.width) - middle[:, 1]) / radius
        inside = _shapes(x, y)[label, torch.arange(self.size)][:, None]
        colours = draw(2, task.channels, 1, 1) * 2 - 1
        picture = torch.where(inside, colours[:, 0], colours[:, 1])
        noise = torch.randn(picture.shape, generator=self.generator)
        return picture + 0.1 * noise, label


def _shapes(x: Tensor, y: Tensor) -> Tensor:
    """Where each of SHAPES is, [shapes, B, H, W]; it reaches from -1 to 1 either way."""
    import torch

    far, wide = (x.square() + y.square()).sqrt(), torch.maximum(x.abs(), y.abs())
    within = wide < 1
    stripes = [(3 * each).floor().remainder(2) == 0 for each in (y, x)]
    return torch.stack(
        (
            far < 1,
            (far < 1) & (far > 0.6),
            within,
            within & (wide > 0.6),
            x.abs() + y.abs() < 1,
            within & (torch.minimum(x.abs(), y.abs()) < 0.25),
            within & ((x.abs() - y.abs()).abs() < 0.3),
            within & stripes[0],
            within & stripes[1],
            within & (stripes[0] ^ stripes[1]),
        )
    )
