"""Capacity, priority, overflow, groups, thinned picks, experts that choose: against loops over tokens."""

from __future__ import annotations

import dataclasses
import itertools
from types import ModuleType

import pytest
import torch

from moedsl.resources import read_text
from tests.kernels import views
from tests.systems import plain_capacity as plain

E = 5


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    # A name of its own: a worker may have imported the view itself, from where others printed it.
    view = dataclasses.replace(views.view("bounded"), package="moedsl_room")
    package = views.write(view, tmp_path_factory.mktemp("printed"))
    (package / "capacity.py").write_text(read_text("templates", "package/library/capacity.py"))
    return views.load(package, "capacity")[0]


def drawn(seed: int, rows: int, k: int):
    """Scores with many ties, a favourite expert, and the picks made of them."""
    generator = torch.Generator().manual_seed(seed)
    score_NE = torch.randn(rows, E, generator=generator, dtype=torch.float64)
    score_NE = (4 * (score_NE + torch.tensor([1.5, 0.5, 0, 0, 0]))).round() / 4
    ranking_NE = score_NE.sort(dim=1, descending=True, stable=True).indices
    gate_NE = score_NE.softmax(1)
    real_N = torch.rand(rows, generator=generator) > 0.25
    return ranking_NE, ranking_NE[:, :k], gate_NE.gather(1, ranking_NE[:, :k]), real_N


def absent(picks_NK: torch.Tensor) -> plain.Picks:
    return [[e if e < E else None for e in row] for row in picks_NK.tolist()]


FUNCTIONS = {
    "first_come": "serve_first_come",
    "by_rank": "serve_by_rank",
    "best": "serve_best_rows",
    "strongest": "serve_best_picks",
}
ALL = list(itertools.product(FUNCTIONS, (1, 2, 3), (23, 8, 4), (1, 2, 4)))


def printed(library, priority, picks, gates, size, room, real):
    gate = [gates] if priority in ("best", "strongest") else []
    return getattr(library, FUNCTIONS[priority])(picks, *gate, E, size, room, real)


@pytest.mark.parametrize("padded", (False, True))
def test_room_is_given_as_loops_over_tokens_give_it(library, padded):
    dropped = 0
    for seed, (priority, k, size, room) in enumerate(ALL):
        _, picks, gates, real = drawn(seed, 23, k)
        real = real if padded else None
        found = printed(library, priority, picks, gates, size, room, real)
        rows = None if real is None else real.tolist()
        want = plain.serve(priority, picks.tolist(), gates.tolist(), size, room, rows)
        assert absent(found) == want, (priority, k, size, room)
        dropped += (found == E).sum().item()
    assert dropped > 500  # not by never dropping


@pytest.mark.parametrize("padded", (False, True))
def test_the_next_best_is_asked_round_after_round(library, padded):
    moved = 0
    for seed, (priority, k, size, room) in enumerate(ALL):
        ranking, picks, gates, real = drawn(seed, 23, k)
        real = real if padded else None
        for rounds in (1, E - k):
            served = printed(library, priority, picks, gates, size, room, real)
            further = ranking[:, k : k + rounds]
            asked, got = library.serve_next(served, picks, further, E, size, room, real)
            rows = None if real is None else real.tolist()
            left = plain.serve(priority, picks.tolist(), gates.tolist(), size, room, rows)
            args = (left, picks.tolist(), ranking.tolist(), size, room, rounds, rows)
            want = plain.serve_next(*args)
            assert [[e for e in row if e < E] for row in got.tolist()] == want
            # What weights are made of: what a row got, then what it asked for in vain; never a choice twice.
            assert torch.equal(asked.where(got < E, E), got)
            assert all(len(set(row)) == k for row in asked.tolist())
            moved += sum(got_row != left_row for got_row, left_row in zip(want, left, strict=True))
    assert moved > 200


@pytest.mark.parametrize("padded", (False, True))
def test_experts_take_rows_as_loops_do(library, padded):
    for seed, (size, room) in enumerate(itertools.product((23, 8, 4), (1, 2, 4, 30))):
        generator = torch.Generator().manual_seed(seed)
        keys = (4 * torch.rand(23, E, generator=generator, dtype=torch.float64)).round() / 4
        real = torch.rand(23, generator=generator) > 0.4 if padded else None
        found = library.choose_rows(keys, size, room, real)
        want = plain.take(keys.tolist(), size, room, None if real is None else real.tolist())
        assert [{e for e in row if e < E} for row in found.tolist()] == want


def test_slots_are_exact():
    """1.1 * 50 / 10 in floating point is 5.500000000000001 and 1.1 * 2 * 50 / 10 is 11.000000000000002."""
    from moedsl.ir.capacity import rule
    from moedsl.model import terms

    assert -(-1.1 * 2 * 50 // 10) == 12  # what the naive form gives
    assert rule(terms.Number(1.1), 2, 10).slots(50) == 11
    for factor, rows, k, experts in itertools.product(
        (0.5, 1.05, 1.25, 2.0), (1, 7, 64), (1, 2), (4, 6)
    ):
        assert rule(terms.Number(factor), k, experts).slots(rows) == plain.slots(
            factor, rows, k, experts
        )


def test_counting_in_bfloat16_would_give_room_twice(library):
    """Why all counting is in integers: a cumulative sum in bfloat16 stands still at 256."""
    picks = torch.zeros(600, 1, dtype=torch.int64)
    found = library.serve_first_come(picks, E, 600, 300, None)
    assert (found < E).sum() == 300
    naive = (torch.ones(600, dtype=torch.bfloat16).cumsum(0) <= 300).sum()
    assert naive != 300


def test_later_rows_move_earlier_ones_by_rank_and_not_first_come(library):
    """With two picks a first pick of a later row evicts a second pick of an earlier one."""
    moved = dict.fromkeys(FUNCTIONS, 0)
    for seed in range(200):
        _ranking, picks, gates, _ = drawn(seed, 8, 2)
        _other, others, other_gates, _ = drawn(seed + 1000, 8, 2)
        changed = torch.cat([picks[:5], others[5:]])
        changed_gates = torch.cat([gates[:5], other_gates[5:]])
        for priority in FUNCTIONS:
            one = printed(library, priority, picks, gates, 8, 3, None)[:5]
            two = printed(library, priority, changed, changed_gates, 8, 3, None)[:5]
            moved[priority] += not torch.equal(one, two)
    assert moved["first_come"] == 0
    assert min(moved["by_rank"], moved["best"], moved["strongest"]) > 20
