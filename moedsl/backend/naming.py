"""What things are called in printed code.

Every name passes through here on its way out, so that no text of a spec becomes anything but an identifier, and none
hides a name that the printed code itself needs.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Collection, Iterable
from dataclasses import field
from itertools import chain, count

from moedsl.frozen import record

_WORD = re.compile(r"[^0-9a-zA-Z_]+")

# What `nn.Module` itself is made of: an attribute of such a name would replace it. Kept as text because the compiler
# does not import torch; tests compare it with the installed one.
_MODULE_ATTRIBUTES = """
T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double
dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
get_submodule half ipu load_state_dict modules mtia named_buffers named_children named_modules
named_parameters parameters register_backward_hook register_buffer register_forward_hook
register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook
register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
set_extra_state set_submodule share_memory state_dict to to_empty train training type xpu
zero_grad
"""
# What every printed model has of its own.
_MODEL_ATTRIBUTES = "adapt init_weights checkpoint_layers run"
MODULE_ATTRIBUTES = frozenset(f"{_MODULE_ATTRIBUTES} {_MODEL_ATTRIBUTES}".split())

_TAKEN_VALUES = frozenset({"self", "torch", "nn", "F", "Tensor", *keyword.kwlist, *dir(builtins)})
_TAKEN_FIELDS = frozenset({"losses", "routing", *dir(tuple)})
_RUNTIME_CLASSES = "Tensor Output Routing Dispatch Cache Rotary NamedTuple Any F"
_TAKEN_CLASSES = frozenset(_RUNTIME_CLASSES.split()) | frozenset(dir(builtins))


def identifier(text: str) -> str:
    """`text` with everything that no identifier holds replaced; never empty, never a keyword."""
    name = _WORD.sub("_", text).strip("_") or "value"
    if name[0].isdigit():
        name = f"n{name}"
    return f"{name}_" if keyword.iskeyword(name) else name


def attribute(place: str) -> str:
    """The attribute of a module at which a place stands; a path of places keeps its dots and layer numbers."""
    return ".".join(part if part.isdigit() else _attribute(part) for part in place.split("."))


def _attribute(part: str) -> str:
    name = identifier(part)
    return f"{name}_" if name in MODULE_ATTRIBUTES or part.startswith("_") else name


def output_fields(names: Iterable[str]) -> list[str]:
    """The fields of the output that hold what the spec's outputs are: none begins with `_` or hides another."""
    found: list[str] = []
    for name in map(identifier, names):
        while name in _TAKEN_FIELDS or name in found:
            name = f"{name}_"
        found.append(name)
    return found


def camel(text: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in identifier(text).split("_") if part)


def class_name(text: str, kind: str, taken: Collection[str]) -> str:
    """`tiny_mixtral` -> `TinyMixtral`; where that is taken its kind is added, then a number."""
    name = camel(text)
    numbered = (f"{name}{n}" for n in count(2))
    candidates = chain((name, f"{name}{camel(kind)}"), numbered)
    return next(c for c in candidates if c not in _TAKEN_CLASSES and c not in taken)


@record
class Scope:
    """The local names of one function. A name is given again only where its old value is no longer read."""

    reserved: frozenset[str] = frozenset()
    used: set[str] = field(default_factory=set)

    def free(self, stem: str, suffix: str = "") -> str:
        """`stem_SUFFIX`, or `stem2_SUFFIX` and so on where that is taken; the name is taken from now on."""
        stem = identifier(stem)
        for number in range(1, 10_000):
            name = stem + (str(number) if number > 1 else "") + (f"_{suffix}" if suffix else "")
            if name not in self.used and name not in self.reserved and name not in _TAKEN_VALUES:
                self.used.add(name)
                return name
        raise AssertionError(f"no free name for {stem}")

    def release(self, name: str) -> None:
        self.used.discard(name)
