"""Random models made of everything that the language has: parts that make sense together, drawn by a seed.

A part is text of the language with tags: what it needs of the model around it, and what it does to who sees whom.

    future   ranks or mixes a whole sequence: the model is drawn without a causal mask
    whole    reads more of a sequence than a step with a cache has
    batch    what becomes of a token depends on others: padding and cached steps may change it
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

VOCAB, WIDTH, EXPERTS = 29, 16, 8


@dataclass(frozen=True)
class Part:
    text: str
    tags: frozenset[str] = frozenset()


def parts(*texts: str, tags: str = "") -> list[Part]:
    return [Part(text, frozenset(tags.split())) for text in texts]


NORMS = parts("rms()", "rms(eps = 1e-5)", "layer_norm()", "rms(weight = false)")
QUERIES = parts(
    "linear",
    "linear -> rope",
    "linear(bias = true) -> rope(part = 50%)",
    "linear -> rms(per = head) -> rope(pairs = adjacent)",
    "linear -> clip(4)",
)
# Experts in projections; a router of the model decides, by the token or for each head.
SPARSE_PROJECTIONS = parts(
    "moe(router = three, experts = 8 * linear)",
    "moe(router = three, experts = [full = 6 * linear, none_of_them = 2 * zero])",
    "moe(router = three, experts = 8 * (linear(8) -> relu -> linear), loss = balance(1e-2))",
    "moe(router = router(score = linear, gate = score -> sigmoid, select = top_k(2)), experts = 4 * linear, per = head)",
)
# The same for decisions of heads, with losses, corrections and room of their own.
for loss in (
    "balance(1e-2, over = sequence)",
    "[l1(1e-3), z(1e-3)]",
    "importance(1e-2, of = clean)",
):
    SPARSE_PROJECTIONS += parts(
        "moe(router = router(score = linear, gate = score -> sigmoid, choose = gate + balancing(1e-3), select = top_k(2)), "
        f"experts = 4 * linear, per = head, loss = {loss})"
    )
SPARSE_PROJECTIONS += parts(
    "moe(router = router(score = linear, gate = score -> softmax, select = top_k(2), capacity = 1, overflow = zero), "
    "experts = 4 * linear, per = head, loss = [entropy(1e-3), balance(1e-2, count = first)])",
    tags="batch",
)
SCORES_OF_ATTENTION = parts(
    "dot",
    "dot -> soft_cap(20)",
    "dot(scale = 0.3)",
    "dot + dot(scale = 0.1)",
    "dot + relative(8, max_distance = 16)",
)
OUTPUTS = parts("mixed -> linear", "mixed * (x -> linear -> sigmoid) -> linear")
SCORES = parts(
    "linear",
    "float32 -> linear",
    "linear(bias = true)",
    "linear(12) -> tanh -> linear",
    "rms(weight = false) -> scale(learned) -> linear",
    "jitter(0.02) -> float32 -> linear",
    "linear -> gaussian(0.125)",
    "linear -> gaussian(1 / choices)",
    "linear -> gaussian(std = (x -> linear -> softplus) + 0.01)",
    "linear -> gumbel",
    "linear -> hide(0.1)",
    "standardize -> linear",
    "linear + (previous(score) -> linear)",
    "float32 -> (linear + previous(score))",
)
# (gate, weigh): how scores become weights.
GATES = [
    ("score -> softmax", ""),
    ("score -> softmax", "gate -> normalize"),
    ("score -> softmax(temperature = 2)", "gate"),
    ("score -> sigmoid", "gate -> normalize(eps = 1e-20) -> scale(2.5)"),
    ("score -> spread -> softmax", "gate -> normalize"),
    ("score -> sigmoid", "gate"),
    ("score -> softplus -> sqrt", "gate -> normalize -> scale(1.5)"),
    ("", "score -> softmax"),
    ("score -> softmax", "gate -> normalize -> scale(learned, per = expert)"),
]
CHOICES = parts("", "", "gate + balancing(rate = 1e-3)")
# Of weights of choices that are drawn, and of any.
ESTIMATORS = ["", "straight_through", "heun"]
SELECTIONS = parts(
    "top_k(1)",
    "top_k(2)",
    "top_k(3)",
    "all",
    "groups(4, keep = 2) -> top_k(2)",
    "groups(2, keep = 1, rank = top(2)) -> top_k(3)",
)
SELECTIONS += parts(
    "top_k(2) -> thin(below = 0.2)", "top_k(2) -> thin(below = 0.4, keep = threshold)"
)
SELECTIONS += parts(
    "in_turn(2, gumbel)",
    "in_turn(2, near_ties(40%) -> gumbel)",
    "in_turn(1, scale(0.5) -> gumbel)",
)
SELECTIONS += parts("top_p(0.5)", "top_p(0.8, most = 4)", "positive", "positive")
EXPERTS_CHOOSE = parts(
    "expert_choice\n    capacity = 2",
    "expert_choice(most = 2, rounds = 8)\n    capacity = 1",
    "expert_choice\n    capacity = 1.5\n    within = sequence",
    tags="future",
)
# Room for experts. What depends on tokens that come later is for models without a causal mask.
ROOM = [
    *parts("", "", "", ""),
    *parts(
        "capacity = 1.25",
        "capacity = phase(train = 1, eval = 2)\n    within = sequence",
        "capacity = slots(3)\n    weighed = served",
        "capacity = room(1, devices = 4)",
        "capacity = phase(train = room(1, devices = 2, spare = 30%), eval = none)\n    priority = strongest",
        "capacity = room(1, per = token, round = down, least = 2, multiple = 2)\n    within = tokens(8)",
        tags="batch",
    ),
    *parts(
        "capacity = 0.8\n    priority = best",
        "capacity = 1\n    priority = by_rank",
        "capacity = 1\n    priority = strongest\n    within = sequence",
        "capacity = 1\n    overflow = next",
        tags="batch future",
    ),
]
# Banks of eight choices.
BANKS = parts(
    "8 * swiglu(12)",
    "8 * geglu(12, bias = true)",
    "8 * mlp(20, activation = relu)",
    "8 * mlp(20, activation = relu -> square, bias = true)",
    "8 * swiglu(12, alpha = 1.702, limit = 7, up_shift = 1, bias = true)",
    "8 * linear",
    "8 * (rms() -> swiglu(12))",
    "[full = 6 * swiglu(12), skip = 2 * zero]",
    "[full = 5 * swiglu(12), skip = zero, same = 2 * identity]",
    "[wide = 4 * swiglu(20), narrow = 4 * mlp(8)]",
    "[full = 4 * swiglu(12), fixed = 2 * replace, same = identity, skip = zero]",
    "8 * (swiglu(12) + constant)",
)
SHARED = parts(
    "none", "swiglu(12)", "2 * swiglu(8)", "swiglu(12) * (linear(1) -> sigmoid)", "geglu(8)"
)
LOSSES = parts(
    "none",
    "balance(1e-2)",
    "balance(1e-2, count = all, over = model)",
    "balance(1e-2, count = first)",
    "[balance(1e-2, over = sequence), z(1e-3)]",
    "[balance(1e-2, over = layer), z(1e-3)]",
    "[balance(1e-2, over = sequence, devices = 4), balance(1e-3, devices = 4, count = visits, limit = 2)]",
    "importance(1e-2)",
    "[entropy(1e-3), balance(1e-2)]",
    "entropy(1e-3, per = token, aim = low)",
    "l1(1e-3)",
)
# Mixtures of another kind, with routers of their own.
SOFT = [
    *parts("soft(slots = 1, over = prefix)", "soft(slots = 2, over = segment(4))", tags="whole"),
    *parts("soft(slots = 2)", tags="future whole"),
]
MERGED = [
    *parts("segment(4, lag = 1)", "segment(3, lag = 1, first = own)", tags="whole"),
    *parts("sequence", tags="future whole"),
]
# An expert with names of its own: a token and a learned vector, mixed as the token says.
REPLACE = """  block replace {
    let mix = x -> linear(2) -> softmax
    x = x * (mix -> part(0, of = 2)) + (x -> constant) * (mix -> part(1, of = 2))
  }"""
# Blocks that serve some of the tokens; without a rule for decoding they look ahead.
RANKED = parts("select = top(40%)", "select = top(5)", "select = above(50%)")
ROUTED = parts(
    "select = above(40%)",
    "select = phase(train = top(40%), decode = predicted(mlp(8)))",
    "select = phase(train = top(3), decode = predicted(linear))\n    gate = score -> sigmoid",
)
# Blocks that come back for tokens that chose so.
DEPTHS = parts(
    "gate = score -> softmax\n    select = top_k(1)\n    loss = balance(1e-2)",
    "gate = score -> sigmoid\n    choose = gate + balancing(rate = 1e-3)\n    select = top_k(1)",
)
# How weights start; half of the models do not say.
STARTS = [
    *[""] * 4,
    "init = truncated(scale = 1, corrected = true)",
    "init = [all = normal(scale = 2), experts = alike]",
    "init = [all = orthogonal(0.5), embed = normal(1), feed = uniform(scale = 1, fan = out)]",
    "init = [all = uniform(scale = 1, fan = average) -> equal_rows, router = zeros, own = by_depth]",
]
DENSE = parts("swiglu(24)", "mlp(24)", "geglu(20, bias = true)")


@dataclass
class Drawn:
    """A model and what it is: `tags` are those of all its parts."""

    text: str
    tags: frozenset[str]
    used: list[str] = field(default_factory=list)

    @property
    def causal(self) -> bool:
        return "future" not in self.tags


class Draw:
    """One draw; equal seeds give equal models."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(f"combination {seed}")
        self.init = random.Random(f"start {seed}").choice(STARTS)
        self.tags: set[str] = set()
        self.unranked: set[str] = set()  # routers whose picks have no first
        self.hiding: set[str] = set()  # routers whose gates may be -inf: no sum of theirs is a loss

    def part(self, options: list[Part]) -> str:
        chosen = self.random.choice(options)
        self.tags |= chosen.tags
        return chosen.text

    def router(self, name: str, drops: bool = True) -> str:
        """Without `drops` for projections: no residual saves a token there."""
        gate, weigh = self.random.choice(GATES)
        score = self.part(SCORES)
        if "hide" in score:
            gate = gate.replace("spread -> ", "")  # hidden numbers have no deviation
        choosing = drops and self.random.random() < 0.12
        select = self.part(EXPERTS_CHOOSE if choosing else SELECTIONS)
        if choosing:
            gate, weigh = "score -> softmax", "gate"
        if select == "positive":
            gate, weigh = "score -> relu", "gate"
        if select.startswith("top_p"):
            gate, weigh = "score -> softmax", self.random.choice(["gate", "gate -> normalize"])
        if (select.endswith("top_k(1)") or "in_turn(1" in select) and (
            "softmax" in weigh or "normalize" in weigh
        ):
            weigh = "gate" if gate else "score -> sigmoid"  # one weight divided by itself is 1
        if choosing or select in ("positive", "all"):
            self.unranked.add(name)
        choose = self.part(CHOICES) if gate and not choosing and select != "all" else ""
        room = "" if choosing or select == "all" or not drops else self.part(ROOM)
        if "overflow" in room and not (select.startswith("top_k") and "->" not in select):
            room = ""  # a next choice is the next of all
        if not drops:
            room = "overflow = zero"  # a token may get nothing, and that is meant
        if "gumbel" in select and "hide" in score:
            score = "linear"  # what is hidden may be drawn, and weighs nothing
        estimator = self.random.choice(ESTIMATORS if "in_turn" in select else ESTIMATORS[:2])
        lines = [
            f"score = {score}",
            f"gate = {gate}" if gate else "",
            f"choose = {choose}" if choose else "",
            f"select = {select}",
            room,
            f"weigh = {weigh}" if weigh else "",
            f"estimator = {estimator}" if estimator and self.random.random() < 0.5 else "",
        ]
        if not gate and "hide" in lines[0]:
            self.hiding.add(name)
        return body("router", name, lines)

    def mixture(self, name: str, router: str) -> str:
        kind = self.random.random()
        if kind < 0.1:
            score = self.random.choice(["cosine(scale = learned)", "cosine(scale = 3)", "linear"])
            lines = [f"router = router(score = {score}, select = {self.part(SOFT)})"]
            lines += ["experts = 8 * swiglu(12)", f"shared = {self.part(SHARED)}"]
            return body("moe", name, lines)
        if kind < 0.18:
            score = f"pool(mean, over = {self.part(MERGED)}) -> linear"
            router = f"router(score = {score}, gate = score -> softmax, select = all)"
            lines = [f"router = {router}", "experts = 4 * swiglu(12)", "mix = parameters"]
            return body("moe", name, lines)
        weight, loss = self.random.choice(["output", "output", "input"]), self.part(LOSSES)
        if router in self.hiding and "l1" in loss:
            loss = "none"
        if router in self.unranked:
            loss = loss.replace(", count = first", "")
        lines = [
            f"router = {router}",
            f"experts = {self.part(BANKS)}",
            f"shared = {self.part(SHARED)}",
            f"weight = {weight}",
            f"loss = {loss}",
        ]
        return body("moe", name, lines)

    def latent(self) -> str:
        lines = [
            "heads = 2",
            f"q_rank = {self.random.choice(['none', '6'])}",
            "kv_rank = 6",
            "head_dim = 4",
            "rope_dim = 4",
            f"rotate = rope(pairs = {self.random.choice(['halves', 'adjacent'])})",
            "mask = MASK",
            f"o = {self.part(OUTPUTS)}",
        ]
        return body("attention", "own = latent", lines)

    def attention(self) -> str:
        if self.random.random() < 0.15:
            return self.latent()
        window = self.random.choice(["none", "none", "5"])
        query, output = self.part(QUERIES), self.part(OUTPUTS)
        where = self.random.random()
        if where < 0.15:
            query = self.part(SPARSE_PROJECTIONS) + " -> rope"
        elif where < 0.3:
            output = f"mixed -> {self.part(SPARSE_PROJECTIONS)}"
        lines = [
            "heads = 4",
            f"kv_heads = {self.random.choice([1, 2, 4])}",
            "mask = MASK",
            f"window = WINDOW{window}",
            f"share = {self.random.choice(['interleaved', 'tiled'])}",
            f"q = {query}",
            f"k = {self.part(QUERIES)}",
            f"scores = {self.part(SCORES_OF_ATTENTION)}",
            f"o = {output}",
        ]
        return body("attention", "own", lines)

    def block(self) -> str:
        return self.random.choice(
            [
                "  block layer(feed) {\n    x += own(before(x))\n    x += feed(after(x))\n  }",
                "  block layer(feed) {\n    let h = before(x)\n    x += own(h) + feed(h)\n  }",
                "  block layer(feed) {\n    x += after(own(before(x)))\n    x += feed(third(x))\n  }",
                "  block layer(feed) {\n    x += own(before(x))\n    let h = after(x)\n"
                "    x += feed(h, route = x)\n  }",
            ]
        )

    def some(self) -> str:
        """A block for some of the tokens."""
        rule = self.part(RANKED if "future" in self.tags else ROUTED)
        return body("block", "some(inner) = routed(inner)", ["score = linear", rule])

    def again(self, attention: str) -> str:
        """A block that comes back."""
        plain = "latent" not in attention and "dot +" not in attention
        keys = "first" if plain else "own"
        lines = [
            "rounds = 3",
            f"router = router(score = linear, {', '.join(self.part(DEPTHS).split(chr(10) + '    '))})",
            f"adds = {self.random.choice(['change', 'result'])}",
            f"keys = {self.random.choice(['own', keys])}",
        ]
        return body("block", "some(inner) = recur(inner)", lines)

    def model(self) -> Drawn:
        r = self.random
        one, two = self.router("one"), self.router("two")
        mixtures = self.mixture("first", "one") + "\n" + self.mixture("second", "two")
        replace = REPLACE if "replace" in mixtures else ""
        routes = r.random() < 0.2
        attention, block = self.attention(), self.block()
        if "router = three" in attention:
            two += "\n" + self.router("three", drops=False)
        dense = f"layer({self.part(DENSE)})" if "route" not in block else "layer(first)"
        some = ""
        if routes:
            one = one.replace(", spare = 30%", "")  # whole sequences are spared
            balanced = "balancing" in one + two + attention  # follows the load of one place
            again = r.random() < 0.4 and not balanced
            some = self.again(attention) if again else self.some()
            plans = [f"{dense} -> some(layer(first)) -> layer(second)", "2 * some(layer(first))"]
        else:
            plans = []
        plan = r.choice(
            plans
            or [
                "layer(first) -> layer(second)",
                f"{dense} -> 2 * layer(first) -> layer(second)",
                f"2 * (layer(first) -> {dense})",
                "2 * (layer(second) -> layer(first))",
            ]
        )
        causal = "future" not in self.tags
        attention = attention.replace("MASK", "causal" if causal else "none")
        attention = attention.replace("WINDOW", "") if causal else _without_window(attention)
        head = "head" if causal else "linear(7)"
        text = "\n".join(
            [
                "model drawn {",
                f"  vocab = {VOCAB}",
                f"  width = {WIDTH}",
                "" if "constant" in mixtures + replace else f"  {self.init}",  # for matrices
                f"  norm before, after, third, last = {self.part(NORMS)}",
                attention,
                replace,
                one,
                two,
                mixtures,
                block,
                some,
                "  input tokens = ids(vocab)",
                f"  output logits = tokens -> embed -> {plan} -> last -> {head}",
                "}",
                "",
            ]
        )
        return Drawn(text, frozenset(self.tags))


def _without_window(attention: str) -> str:
    return "\n".join(line for line in attention.split("\n") if "WINDOW" not in line)


def body(kind: str, name: str, lines: list[str]) -> str:
    return "\n".join([f"  {kind} {name} {{", *(f"    {line}" for line in lines if line), "  }"])


def drawn(seed: int) -> Drawn:
    return Draw(seed).model()
