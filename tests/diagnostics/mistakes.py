"""Mistakes of meaning: a small sound spec, and what to replace in it."""

from __future__ import annotations

SPEC = """\
model small {
  vocab = 256
  width = 64

  norm before_mix, before_ffn, last = rms()

  attention own {
    heads = 4
  }

  router pick {
    score  = linear
    gate   = score -> softmax
    select = top_k(2)
  }

  moe sparse {
    router  = pick
    experts = 4 * swiglu(96)
    loss    = balance(1e-2)
  }

  block layer {
    x += own(before_mix(x))
    x += sparse(before_ffn(x))
  }

  input  tokens = ids(vocab)
  output logits = tokens -> embed -> 2 * layer -> last -> head
}
"""
ATTENDED = "own(before_mix(x))"
CHECKPOINT = """\
  checkpoint hub = huggingface(names = file) {
    embed = "embed.weight"
    layer[i].[before_mix, before_ffn] = "layers.{i}.[norm_1, norm_2].weight"
    layer[i].own.[q, k, v, o] = "layers.{i}.attention.[q, k, v, o].weight"
    layer[i].sparse.router.score = "layers.{i}.router.weight"
    layer[i].sparse.experts[e].[gate, up, down] = "layers.{i}.experts.{e}.[w1, w3, w2].weight"
    head = "head.weight"
  }
}
"""

MISTAKES: dict[str, dict[str, str]] = {
    "setting_misspelt_in_a_change": {
        "  block layer": "  moe wide = sparse with {\n    expert = 8 * swiglu(96)\n  }\n\n  block layer",
        "sparse(before_ffn": "wide(before_ffn",
    },
    "construct_unknown": {"swiglu(96)": "swiglo(96)"},
    "count_in_a_bank": {"4 * swiglu(96)": "4 * swiglu(96) -> linear"},
    "experts_of_themselves": {"4 * swiglu(96)": "4 * sparse"},
    "future_seen": {"heads = 4": "heads = 4\n    mask  = none"},
    "heads_do_not_divide": {"heads = 4": "heads = 5"},
    "heads_not_whole": {"heads = 4": "heads = 4.5"},
    "import_of_itself": {"model small {": 'import small from "spec.moe"\n\nmodel small {'},
    "import_of_no_file": {"model small {": 'import base from "base.moe"\n\nmodel small {'},
    "import_of_nothing_in_a_file": {
        "model small {": 'import own from "parts.moe"\n\nmodel small {'
    },
    "import_outside_of_the_folder": {
        "model small {": 'import own from "../parts.moe"\n\nmodel small {'
    },
    "kind_of_a_setting": {"router  = pick": "router  = own"},
    "kind_unknown": {"attention own {": "atention own {"},
    "kind_wrong": {"norm before_mix": "attention before_mix"},
    "kv_heads_do_not_divide": {"heads = 4": "heads    = 4\n    kv_heads = 3"},
    "loss_in_a_flow": {ATTENDED: f"{ATTENDED} -> balance(1e-2)"},
    "name_misspelt": {ATTENDED: "own(befor_mix(x))"},
    "name_reserved": {"attention own {": "attention gate {", ATTENDED: "gate(before_mix(x))"},
    "nothing_reads": {f"    x += {ATTENDED}\n": ""},
    "number_times_a_tensor": {ATTENDED: f"0.5 * {ATTENDED}"},
    "output_without_an_input": {"tokens -> embed": "embed"},
    "path_of_no_weight": {"head\n}\n": f"head\n\n{CHECKPOINT.replace('score =', 'scores =')}"},
    "phase_of_a_recipe": {
        "heads = 4": "heads = 4\n    q     = phase(train = linear, eval = identity)"
    },
    "picks_more_than_experts": {"top_k(2)": "top_k(6)"},
    "place_twice": {"sparse(before_ffn": "sparse(before_mix"},
    "plan_shorter_than_the_flow": {
        "  block layer {": "  block layer(n) {",
        ATTENDED: "own(before_mix(x)) -> dropout(n)",
        "2 * layer": "3 * layer(by_layer([0.1, 0.2]))",
    },
    "recipe_where_a_tensor_is_wanted": {ATTENDED: "before_mix -> own"},
    "required_missing": {"    heads = 4\n": "    mask = causal\n"},
    "required_missing_in_a_call": {"top_k(2)": "top_k()"},
    "rope_without_heads": {ATTENDED: "own(before_mix(x) -> rope)"},
    "router_never_trained": {
        "    gate   = score -> softmax\n": "",
        "top_k(2)": "top_k(1)\n    weigh  = score -> softmax",
        "    loss    = balance(1e-2)\n": "",
    },
    "score_of_another_size": {"score  = linear": "score  = linear(8)"},
    "setting_misspelt": {"heads = 4": "head = 4"},
    "setting_misspelt_in_a_call": {"swiglu(96)": "swiglu(96, biass = true)"},
    "setting_of_the_model_misspelt": {"width = 64": "widht = 64"},
    "setting_twice": {"heads = 4": "heads = 4\n    heads = 8"},
    "sizes_differ": {ATTENDED: f"{ATTENDED} -> linear(32)"},
    "text_for_a_number": {"width = 64": 'width = "64"'},
    "top_k_of_zero": {"top_k(2)": "top_k(0)"},
    "weight_unmapped": {"head\n}\n": f"head\n\n{CHECKPOINT}"},
    "width_unsaid": {ATTENDED: "own(before_mix(x) -> linear)"},
    "window_without_a_mask": {"heads = 4": "heads  = 4\n    mask   = none\n    window = 8"},
    "word_misspelt": {"heads = 4": "heads = 4\n    mask  = casual"},
}


def spelled(name: str) -> str:
    """The spec with its mistake."""
    text = SPEC
    for right, wrong in MISTAKES[name].items():
        assert text.count(right) == 1, right
        text = text.replace(right, wrong)
    return text
