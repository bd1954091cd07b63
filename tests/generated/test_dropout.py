"""Dropout acts in training, and in evaluation only where phases say so."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.generated import variants  # noqa: E402


def attending(setting: str):
    return ("heads = 4", f"heads = 4\n    dropout = {setting}")


RATES = {
    "0.25": (0.25, 0),
    "phase(train = 0.25, eval = 0)": (0.25, 0),
    "phase(train = 0.25, eval = 0.5)": (0.25, 0.5),
    "phase(train = 0.25)": (0.25, 0.25),
}


@pytest.mark.parametrize("setting", RATES)
def test_attention_drops_by_phase(setting, monkeypatch):
    module, model = variants.made(attending(setting))
    inner, seen = module.model, []

    def attend(*given, dropout):
        seen.append(dropout)
        return real(*given, dropout=dropout)

    real = inner.attend
    monkeypatch.setattr(inner, "attend", attend)
    for training in (True, False):
        model.train(training)(variants.tokens())
    assert seen == [RATES[setting][0]] * 2 + [RATES[setting][1]] * 2


def test_attention_without_noise_is_plain_in_evaluation():
    _, plain = variants.made()
    module, noisy = variants.made(attending("0.25"))
    noisy.load_state_dict(plain.state_dict())
    ids = variants.tokens()
    assert torch.equal(noisy.eval()(ids).logits, plain.eval()(ids).logits)
    assert not torch.equal(noisy.train()(ids).logits, noisy(ids).logits)
    variants.generates(module, noisy)


def test_training_is_refused_while_generating():
    module, model = variants.made(attending("0.25"))
    with pytest.raises(ValueError, match="training"):
        module.generate(model.train(), variants.tokens(), 2)


@pytest.mark.parametrize(
    "experts",
    [
        "swiglu(96, dropout = phase(train = 0.25, eval = 0.5))",
        "(linear(96) -> dropout(phase(train = 0.25, eval = 0.5)) -> linear)",
    ],
)
def test_hidden_channels_drop_by_phase(experts, monkeypatch):
    _, model = variants.made(("swiglu(96)", experts))
    seen = []

    def dropout(x, p, training=True):
        seen.append(p if training else 0)
        return x

    monkeypatch.setattr(torch.nn.functional, "dropout", dropout)
    for training in (True, False):
        model.train(training)(variants.tokens())
    assert seen == [0.25] * 2 + [0.5] * 2


def test_decoding_differs_from_evaluation_not_yet():
    setting = "phase(train = 0.2, eval = 0.1, decode = 0)"
    assert variants.codes(attending(setting)) == ["E0208"]
    assert variants.codes(("swiglu(96)", f"swiglu(96, dropout = {setting})")) == ["E0208"]
