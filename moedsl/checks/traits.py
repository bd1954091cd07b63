"""What the checks read from an operation: traits that any op may state, each with a default for those that do not.

No check knows an operation, a router or an attention by name. An op of somebody else's package takes part in every
proof by stating these on its class or as properties:

  sees        "row" | "past" | "all": which rows of a sequence the result at one row depends on
  looks       inputs through which it sees more than its own row (None: all of them; (1, 2) for queries, keys, values)
  lookahead   "" where seeing the future is a fault, "allowed" where the spec says so, else the rule that replaces the
              operation when decoding, in the spec's words
  causal_form what to write instead so that the future stays unseen ("mask = causal"), for help
  couples     what makes a row's result depend on other sequences of the batch ("capacity"); "" where nothing does
  least       of what picks, or takes picks away: the fewest that a row keeps (None: all that its axis says)
  among       of what keeps the picks of some choices only: (first, count) of those choices
  meant       of what makes a decision: rows without a pick get nothing, and the spec says that this is meant
  carries     inputs through which gradients flow (None: all of them)
  normalizes  the axis along which the result adds up to one: over a single entry it is the constant 1
  fields      of an operation that makes a record: which field each of its inputs becomes ("" for the rest)
  chosen      (picks, choices): the axes of a selection
  coefficient of a loss: its operation asks for gradients of its own; None: not a loss
"""

from __future__ import annotations

from moedsl.ir.graph import Dim, Node, TensorType, Value
from moedsl.ir.ops import Op, Routed


def sees(node: Node, index: int) -> str:
    """What the node sees through one of its inputs."""
    looks = getattr(node.op, "looks", None)
    return node.op.sees if looks is None or index in looks else "row"


def lookahead(node: Node) -> str:
    return getattr(node.op, "lookahead", "")


def couples(node: Node) -> str:
    return getattr(node.op, "couples", "")


def least(node: Node) -> int | None:
    return getattr(node.op, "least", None)


def among_choices(node: Node) -> tuple[int, int] | None:
    return getattr(node.op, "among", None)


def meant(node: Node) -> bool:
    return getattr(node.op, "meant", False)


def causal_form(node: Node) -> str:
    return getattr(node.op, "causal_form", "")


def carries(node: Node, index: int) -> bool:
    """Does a gradient of the node's results reach this input?"""
    value = node.inputs[index]
    inputs = node.op.carries
    return differentiable(value) and (inputs is None or index in inputs)


def differentiable(value: Value) -> bool:
    return not (isinstance(value.type, TensorType) and value.type.dtype in ("int", "bool"))


def constant(node: Node) -> Dim | None:
    """The axis of one entry along which the node normalises, if so: its result is 1 whatever comes in."""
    axis: Dim | None = getattr(node.op, "normalizes", None)
    return axis if axis is not None and axis.size == 1 else None


def names_of_fields(node: Node) -> tuple[str, ...] | None:
    """Of an operation that makes a record: the field that each of its inputs becomes; None for the others."""
    return getattr(node.op, "fields", None) or _FIELDS.get(type(node.op))


def field_of(node: Node, index: int) -> str | None:
    """The field that an input becomes in the record that the node makes; None where the node makes no record."""
    names = names_of_fields(node)
    if names is None:
        return None
    return names[index] if index < len(names) else ""


# What ops of the graph's own do not say themselves.
_FIELDS: dict[type[Op], tuple[str, ...]] = {Routed: ("expert_NK", "weight_NK", "logits_NE")}


def chosen(node: Node) -> tuple[Dim, Dim] | None:
    return getattr(node.op, "chosen", None)


def is_loss(node: Node) -> bool:
    return coefficient(node) is not None


def coefficient(node: Node) -> float | None:
    return getattr(node.op, "coefficient", None)
