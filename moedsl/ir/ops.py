"""Every operation of the graph, by family. An op is a frozen value: attributes, no weights, no tensors.

ops_base        what an op is
ops_calls       a unit run at a place; layers in sequence
ops_weights     linear maps, norms, look-ups, learned factors
ops_pointwise   functions of elements and along the last axis
ops_shape       heads opened and closed, rows of the stream, fields of records
ops_attention   rotation, attention, and what is made once for all layers
ops_scores      attention written out
ops_routing     selection, dispatch, combine, the fused route
ops_capacity    room for routed rows, and who gets it
ops_losses      losses over routings
ops_states      numbers that a rule moves
"""

from moedsl.ir.ops_attention import (
    Ambient,
    Attend,
    AttentionMask,
    CacheHandle,
    MaskArgument,
    Past,
    Positions,
    RealRows,
    RotaryTable,
    Rotate,
    Sequences,
)
from moedsl.ir.ops_base import Op
from moedsl.ir.ops_calls import Call, Stack
from moedsl.ir.ops_capacity import (
    CappedChoice,
    ExpertChoice,
    Further,
    GroupSize,
    NextBest,
    Rule,
    Serve,
    SlotRows,
    Slots,
    Thin,
)
from moedsl.ir.ops_losses import Balance, Listing, LossTerm, ZLoss
from moedsl.ir.ops_pointwise import (
    Cast,
    Chunk,
    Clip,
    Combination,
    Dropout,
    Normalize,
    Pointwise,
    Scale,
    SoftCap,
    Softmax,
    Zeros,
)
from moedsl.ir.ops_routing import (
    ROW_COUNT,
    AllRows,
    Combine,
    Dispatch,
    Gather,
    GatherRows,
    KindRows,
    LimitGroups,
    Route,
    Routed,
    RowWeights,
    Statistic,
    TopK,
    WeightSum,
    WithoutAbsent,
)
from moedsl.ir.ops_scores import Dot, Mix, Remember
from moedsl.ir.ops_shape import (
    Append,
    Cut,
    EveryPosition,
    Field,
    MergeHeads,
    OneHead,
    Rows,
    SplitHeads,
    Unrows,
)
from moedsl.ir.ops_states import Correction, StateOp
from moedsl.ir.ops_weights import Embedding, Learned, LearnedScale, Linear, Norm, TiedLinear

__all__ = [
    "ROW_COUNT",
    "AllRows",
    "Ambient",
    "Append",
    "Attend",
    "AttentionMask",
    "Balance",
    "CacheHandle",
    "Call",
    "CappedChoice",
    "Cast",
    "Chunk",
    "Clip",
    "Combination",
    "Combine",
    "Correction",
    "Cut",
    "Dispatch",
    "Dot",
    "Dropout",
    "Embedding",
    "EveryPosition",
    "ExpertChoice",
    "Field",
    "Further",
    "Gather",
    "GatherRows",
    "GroupSize",
    "KindRows",
    "Learned",
    "LearnedScale",
    "LimitGroups",
    "Linear",
    "Listing",
    "LossTerm",
    "MaskArgument",
    "MergeHeads",
    "Mix",
    "NextBest",
    "Norm",
    "Normalize",
    "OneHead",
    "Op",
    "Past",
    "Pointwise",
    "Positions",
    "RealRows",
    "Remember",
    "RotaryTable",
    "Rotate",
    "Route",
    "Routed",
    "RowWeights",
    "Rows",
    "Rule",
    "Scale",
    "Sequences",
    "Serve",
    "SlotRows",
    "Slots",
    "SoftCap",
    "Softmax",
    "SplitHeads",
    "Stack",
    "StateOp",
    "Statistic",
    "Thin",
    "TiedLinear",
    "TopK",
    "Unrows",
    "WeightSum",
    "WithoutAbsent",
    "ZLoss",
    "Zeros",
]
