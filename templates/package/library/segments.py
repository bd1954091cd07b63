"""Segments: tokens of a sequence counted off, padding left out, and what they give.

Shapes: B sequences, T tokens of this call, S tokens with those that a cache remembers,
P segments, Q segments of all sequences, L tokens of a segment, D channels, E experts,
Z slots of all experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .slots import by_expert, by_sequence


def segment_of(like_BSD: Tensor, mask_BS: Tensor | None, segment: int) -> Tensor:
    """The segment that each token is in, [B or 1, S]; padding is beyond all."""
    seen = like_BSD.shape[1]
    if mask_BS is None:
        return torch.arange(seen, device=like_BSD.device)[None] // segment
    return ((mask_BS.cumsum(1) - 1) // segment).where(mask_BS, seen)


def asked(own_BS: Tensor, past: int, segment: int) -> Tensor:
    """The segments that tokens from `past` on may be in, [B or 1, P]."""
    if own_BS.shape[1] - past == 1:
        return own_BS[:, past:]
    return torch.arange((own_BS.shape[1] - 1) // segment + 1, device=own_BS.device)[
        None
    ]


def mean_where(x_BSD: Tensor, taken_BPS: Tensor) -> Tensor:
    """The mean of what is taken, zero where that is nothing, [B, P, D]."""
    count_BP1 = taken_BPS.sum(-1, keepdim=True).clamp_min(1)
    return (taken_BPS / count_BP1).to(x_BSD.dtype).expand(len(x_BSD), -1, -1) @ x_BSD


def segment_mean(
    x_BSD: Tensor, mask_BS: Tensor | None, past: int, segment: int, lag: int
) -> Tensor:
    """For each segment the mean of the one `lag` before, [B, P, D]; zero at first."""
    own_BS = segment_of(x_BSD, mask_BS, segment)
    of_BP = asked(own_BS, past, segment)
    return mean_where(x_BSD, own_BS[:, None] == of_BP.unsqueeze(-1) - lag)


def segment_mean_own(
    x_BSD: Tensor, mask_BS: Tensor | None, past: int, segment: int, lag: int
) -> Tensor:
    """As segment_mean; the first segments read their own mean, without a gradient."""
    own_BS = segment_of(x_BSD, mask_BS, segment)
    of_BP1 = asked(own_BS, past, segment).unsqueeze(-1)
    before_BPD = mean_where(x_BSD, own_BS[:, None] == of_BP1 - lag)
    own_BPD = mean_where(x_BSD.detach(), own_BS[:, None] == of_BP1)
    return own_BPD.where(of_BP1 < lag, before_BPD)


def to_segments(
    x_BTD: Tensor, mask_BS: Tensor | None, past: int, segment: int
) -> Tensor:
    """The tokens of each segment together, filled up with zeros, [Q, L, D]."""
    length = x_BTD.shape[1]
    if length == 1:
        return x_BTD
    if mask_BS is None and past == 0:
        x_BTD = F.pad(x_BTD, (0, 0, 0, -length % segment))
        return x_BTD.unflatten(1, (-1, segment)).flatten(0, 1)
    place_BT1, room = places(x_BTD, mask_BS, past, segment)
    x_BRD = x_BTD.new_zeros(x_BTD.shape[0], room + 1, x_BTD.shape[2])
    x_BRD = x_BRD.scatter(1, place_BT1.expand_as(x_BTD), x_BTD)
    return x_BRD[:, :-1].unflatten(1, (-1, segment)).flatten(0, 1)


def from_segments(
    y_QLD: Tensor, x_BTD: Tensor, mask_BS: Tensor | None, past: int, segment: int
) -> Tensor:
    """The rows of segments as the stream that they came from, [B, T, D]."""
    batch, length = x_BTD.shape[:2]
    if length == 1:
        return y_QLD
    y_BRD = y_QLD.unflatten(0, (batch, -1)).flatten(1, 2)
    if mask_BS is None and past == 0:
        return y_BRD[:, :length]
    place_BT1, _ = places(x_BTD, mask_BS, past, segment)
    return F.pad(y_BRD, (0, 0, 0, 1)).take_along_dim(place_BT1, 1)


def places(
    x_BTD: Tensor, mask_BS: Tensor | None, past: int, segment: int
) -> tuple[Tensor, int]:
    """Where each token stands in all segments, padding behind them, and their room."""
    batch, length = x_BTD.shape[:2]
    room = ((past + length - 1) // segment + 1) * segment
    if mask_BS is None:
        place_T = torch.arange(past, past + length, device=x_BTD.device)
        return place_T[None, :, None].expand(batch, -1, 1), room
    place_BS = (mask_BS.cumsum(1) - 1).where(mask_BS, room)
    return place_BS[:, past:, None], room


def fill_segments(
    x_BSD: Tensor,
    score_BSZ: Tensor,
    mask_BS: Tensor | None,
    past: int,
    segment: int,
    lag: int,
    num_experts: int,
) -> Tensor:
    """Slots for each segment: means of all tokens `lag` segments back, [E, R, D]."""
    own_BS = segment_of(x_BSD, mask_BS, segment)
    of_BP = asked(own_BS, past, segment)
    sees_BPS = own_BS[:, None] <= of_BP.unsqueeze(-1) - lag
    score_BPZS = score_BSZ.mT.unsqueeze(1)
    score_BPZS = score_BPZS.where(
        sees_BPS.unsqueeze(2), torch.finfo(score_BSZ.dtype).min
    )
    slot_BPZD = score_BPZS.softmax(-1).to(x_BSD.dtype) @ x_BSD.unsqueeze(1)
    return by_expert(slot_BPZD.flatten(0, 1), num_experts)


def read_segments(
    y_ERD: Tensor,
    score_BTZ: Tensor,
    mask_BS: Tensor | None,
    past: int,
    segment: int,
    lag: int,
) -> Tensor:
    """Each token is a mean of its segment's slots, [B, T, D]; nothing at first."""
    seen_BSZ = F.pad(score_BTZ, (0, 0, past, 0))
    own_BS = segment_of(seen_BSZ, mask_BS, segment)
    of_BP, own_BT1 = asked(own_BS, past, segment), own_BS[:, past:].unsqueeze(-1)
    hit_BTP = (own_BT1 == of_BP.unsqueeze(1)) & (own_BT1 >= lag)
    batch, segments = score_BTZ.shape[0], of_BP.shape[1]
    y_BRD = by_sequence(y_ERD, batch * segments).unflatten(0, (batch, -1)).flatten(1, 2)
    weight_BTPZ = score_BTZ.softmax(2).unsqueeze(2) * hit_BTP.unsqueeze(-1)
    return weight_BTPZ.to(y_BRD.dtype).flatten(2) @ y_BRD
