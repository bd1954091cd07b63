"""Blocks that serve some of the tokens, once or several times, and the rules that say which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moedsl.constructs.declare import Construct, Expression, Listed, Number, RecipeOf, Words
from moedsl.constructs.registry import construct_of
from moedsl.diagnostics.model import Label
from moedsl.ir import depth, depth_rules, rounds
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value

_SCORE = "one number for each token, by which tokens are ranked"
_GATE = "what the block adds is multiplied by it"
_LOOKAHEAD = Words(
    "refused",
    choices=("refused", "allowed"),
    doc="whether what a token gets may depend on tokens after it where these are to be predicted",
)
_TEACHES = "what the cross-entropy of its logit with who is served is worth"


class Predicted(Construct):
    """A recipe of its own tells from a token alone whether it will be served: where its one number is above 0.

    It learns that from who is served in training, by a cross-entropy that moves nothing else: neither the block nor
    what comes before it.
    """

    kind = "rule"
    source = "Raposo et al., 2024, section 3.5"
    body = RecipeOf(positional=True, flows=True, doc="gives one number for each token")
    membership = Number("1", low=0, exclusive_low=True, doc=_TEACHES)


class Above(Construct):
    """The tokens whose sigmoid(score) is above a threshold, each decided by itself, however many they are.

    Where others rank tokens in training, `membership` pulls the scores of those served above 0 and the others below:
    it moves the router, and what comes before it.
    """

    kind = "rule"
    source = "Raposo et al., 2024, section 3.5; Bae et al., 2025, section 2.2"
    share = Number(
        "50%",
        low=0,
        high=1,
        exclusive_low=True,
        positional=True,
        doc="the threshold of the sigmoid of the score",
    )
    membership = Number(
        "none", low=0, exclusive_low=True, words=("none",), doc=_TEACHES + "; `none`: not at all"
    )

    def check(self, at: Any, sink: Any) -> None:
        if self.share == 1:
            sink.error(
                "E0206",
                "no sigmoid is above 100%, so no token would be served",
                at.origin("share"),
                help="write a share below it: `above(50%)`",
            )


class Serving(Construct):
    """What all blocks that serve some of the tokens share."""

    abstract: ClassVar[bool] = True
    kind = "block"
    unit = True
    whole = True
    causality: ClassVar[str] = "decodes"
    body: Any
    score: Any
    gate: Any
    lookahead: Any

    @property
    def learns(self) -> Construct | None:
        """The rule that learns from whom training serves."""
        return None


class Routed(Serving):
    """A block that serves some of the tokens; the others pass it by, unchanged.

    The tokens that `select` chooses go through the block among themselves, in their order and with their positions in
    the whole sequence: queries, keys and values are theirs alone. What the block adds to a token is multiplied by its
    `gate`, by default the score as it is. A share is one of each sequence's real tokens, rounded up: padding is never
    chosen.

    Whatever reads more than its own token reads those that are served, and no others: soft slots are filled with them,
    segments are counted among them, their distances are those in the whole sequence. Patches of an image may be served
    too; `top` then gives shapes that are known before any image is.

    Ranking a sequence looks ahead, so a model that predicts tokens says what decides when decoding:
    `select = phase(train = top(12.5%), decode = predicted(mlp(192)))`. With a cache, keys and values of all tokens are
    kept, and those of tokens that were not served are hidden.
    """

    source = "Raposo et al., 2024, sections 3.3 to 3.5"
    body = RecipeOf(
        kinds=("block",), positional=True, flows=True, doc="the block, or blocks in sequence"
    )
    score = Expression("linear", sees=("x",), bare=True, doc=_SCORE)
    gate = Expression("score", sees=("x", "score"), doc=_GATE)
    select = RecipeOf(
        kinds=("rank", "rule"), doc="whom it serves: `top(12.5%)`, `top(256)`, `above(50%)`"
    )
    lookahead = _LOOKAHEAD

    def lower(self, build: Builder, x: Value) -> Value:
        return depth.lower_routed(build, self, x)

    @property
    def learns(self) -> Construct | None:
        return depth_rules.learner(self.select)


class Recur(Serving):
    """A block that comes back with the same weights, each round for some of the tokens of the round before.

    Either rounds choose tokens: `keep` says how many of a sequence each round serves, `[top(100%), top(67%), top(33%)]`
    in three rounds; each has a `score` of its own, and ranks those that the round before served. What the block adds to
    a token is multiplied by its `gate`.

    Or tokens choose rounds: `router` has as many choices as there are `rounds`, and a token decides once, before the
    first, how many it takes. What comes out of its last round, times the weight of its pick, is added to what it was
    before the first.

    Either way a token that a round leaves out stays as it is from there on, and no later round sees its keys and values.
    With a cache, each round keeps keys and values of its own. Where tokens choose rounds, `keys = first` lets all rounds read
    those of the first: then a token that is done is still seen, as it was there.

    Ranking a sequence looks ahead, so a model that predicts tokens says what decides when decoding: `decode = above(50%,
    membership = 1e-3)`, in each round by the score of that round. A router looks at nothing but its token, and decides
    alike in all phases. Its rounds run on all tokens where they stand, since how many go on is known only then; those
    that are done are hidden.
    """

    source = "Bae et al., 2025 (Mixture-of-Recursions), section 2.2; mixture_of_recursions/model/mor_model"
    body = RecipeOf(kinds=("block",), positional=True, doc="the block")
    keep = Listed(
        "none",
        kinds=("rank",),
        doc="how many each round serves, round after round; `none`: a router decides",
    )
    rounds = Number(
        "none",
        low=1,
        whole=True,
        words=("none",),
        doc="how many there are, where tokens choose among them",
    )
    router = RecipeOf(
        "none",
        kinds=("router",),
        words=("none",),
        doc="decides for each token how many rounds it takes: pick number 0 is one round",
    )
    keys = Words(
        "own",
        choices=("own", "first"),
        doc="whose keys and values a round reads where tokens choose rounds: its `own`, of those that take part in it; or "
        "those of the `first` round, of all tokens, which are then all that a cache keeps",
    )
    adds = Words(
        "change",
        choices=("change", "result"),
        doc="what is weighed and added to a token: what the block changed in it, or all that came out of the block",
    )
    score = Expression("linear", sees=("x",), bare=True, doc=_SCORE + "; one in each round")
    gate = Expression("score -> sigmoid", sees=("x", "score"), doc=_GATE)
    decode = RecipeOf(
        "none", kinds=("rule",), words=("none",), doc="what decides when decoding, in each round"
    )
    lookahead = _LOOKAHEAD

    def check(self, at: Any, sink: Any) -> None:
        if self.router == "none":
            said = ["rounds"] if self.rounds != "none" else ["keys"] if self.keys == "first" else []
            if not self.keep or said:
                _undecided(sink, at, said)
            return
        said = [name for name in _OF_RANKS if not _is_default(getattr(self, name))]
        if said or self.rounds == "none":
            _undecided(sink, at, said, by_router=True)

    def lower(self, build: Builder, x: Value) -> Value:
        if self.router != "none":
            return rounds.lower_chosen(build, self, x)
        return rounds.lower_recur(build, self, x)

    @property
    def learns(self) -> Construct | None:
        rule = construct_of(self.decode) if isinstance(self.decode, terms.Recipe) else None
        return rule if depth_rules.worth_of(rule) else None


# What is said about rounds that rank tokens.
_OF_RANKS = ("keep", "score", "gate", "decode", "lookahead")


def _is_default(value: Any) -> bool:
    """Whether nothing was said; a resolved spec has defaults written out."""
    match value:
        case terms.Recipe(construct="linear", settings=settings):
            plain = {"width": "fitting", "bias": "false", "init": "standard"}
            return all(term == terms.Word(plain[name]) for name, term in settings)
        case terms.Apply(terms.Recipe(construct="sigmoid"), (terms.Tensor("score"),)):
            return True
    return value in ("none", (), "refused")


def _undecided(sink: Any, at: Any, said: list[str], by_router: bool = False) -> None:
    """Rounds choose tokens, or tokens choose rounds."""
    if said and by_router:
        fault = f"`{said[0]}` is about rounds that choose tokens, and here tokens choose rounds"
    elif said:
        fault = f"`{said[0]}` is about rounds that tokens choose, and there is no `router`"
    elif by_router:
        fault = f"`{at.name}` does not say among how many rounds its router chooses"
    else:
        fault = f"`{at.name}` does not say who goes on after a round"
    sink.error(
        "E0426",
        fault,
        at.origin(said[0]) if said else at.span,
        secondary=(Label(at.origin("router"), "a token decides here"),) if by_router else (),
        help="write `rounds = 3` and a `router`, or `keep = [top(100%), top(67%), top(33%)]`",
    )
