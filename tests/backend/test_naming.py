"""No text of a spec reaches printed code but as an identifier, and none hides a name that the code needs."""

from __future__ import annotations

import keyword

import pytest

from moedsl.backend.naming import MODULE_ATTRIBUTES, Scope, attribute, camel, class_name, identifier


@pytest.mark.parametrize(
    "text",
    (
        "a b",
        "__import__('os')",
        "",
        "9lives",
        "class",
        "a;b",
        'x"""',
        "\u0434\u043e\u043c",
        "a\nb",
        "None",
    ),
)
def test_identifiers(text):
    name = identifier(text)
    assert name.isidentifier() and name.isascii() and not keyword.iskeyword(name)


@pytest.mark.parametrize(
    "text", ("forward", "train", "to", "float", "state_dict", "run", "checkpoint_layers")
)
def test_attributes_keep_clear_of_the_module(text):
    assert attribute(text) == f"{text}_"
    assert attribute(f"layer.3.{text}.q") == f"layer.3.{text}_.q"


def test_module_attributes_are_those_of_torch():
    nn = pytest.importorskip("torch.nn")
    public = {name for name in dir(nn.Module()) if not name.startswith("_")}
    assert public <= MODULE_ATTRIBUTES


def test_class_names():
    assert camel("tiny_mixtral") == "TinyMixtral"
    assert camel("mixtral_8x7b") == "Mixtral8x7b"
    assert class_name("cache", "attention", ()) == "CacheAttention"
    assert class_name("own", "block", ("Own", "OwnBlock")) == "Own2"


def test_scopes_never_give_a_name_twice():
    scope = Scope()
    assert [scope.free("x", "BTD") for _ in range(3)] == ["x_BTD", "x2_BTD", "x3_BTD"]
    scope.release("x_BTD")
    assert scope.free("x", "BTD") == "x_BTD"
    assert scope.free("list") == "list2"
