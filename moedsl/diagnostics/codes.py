"""Every code and what it is about.

The first two digits are the stage that finds it:

    E01xx  syntax                       E04xx  routing and causality
    E02xx  names and values             E05xx  losses and gradients
    E03xx  shapes                       E06xx  placement and checkpoints
    W1xxx  warnings: what a published model may do on purpose

To add one: take the next free number of its stage, write a line here and a page `explain/<CODE>.md` with the headings of
the other pages, and report it with `sink.error(code, ...)`. tests/diagnostics/test_explain.py compiles the two specs of
the page: the first must fail with the code, the second must not. A code is never reused for something else.
"""

from __future__ import annotations

CODES: dict[str, str] = {
    # --- syntax
    "E0101": "something else is expected here",
    "E0102": "a character that means nothing here",
    "E0103": "a text that cannot be read",
    "E0104": "brackets that do not match",
    "E0105": "not a number",
    "E0106": "a number that cannot be held",
    "E0107": "a text that is too large or nested too deep",
    "E0108": "a sum beside an arrow",
    "E0109": "an arrow or operator with nothing on one side",
    "E0110": "a setting without a plain `=`",
    "E0111": "a line that says nothing",
    "E0112": "statements or values that are not kept apart",
    "E0113": "a comment of another language",
    "E0114": "an import that cannot be read",
    # --- names and values
    "E0201": "a name that nothing has",
    "E0202": "a setting that is not there",
    "E0203": "a setting that must be given",
    "E0204": "a parameter without a value",
    "E0205": "too many values by position",
    "E0206": "a number out of bounds",
    "E0208": "not yet in this compiler",
    "E0209": "one name at two places",
    "E0210": "a value of another type",
    "E0211": "a recipe of another kind",
    "E0212": "not a word of this setting",
    "E0213": "the same thing said twice",
    "E0214": "a number that multiplies what comes out",
    "E0215": "two things that cannot be joined",
    "E0216": "a count in a bank that can be read in two ways",
    "E0217": "a change of something that is not there",
    "E0218": "a statement that cannot stand here",
    "E0219": "a name that has a meaning of its own",
    "E0220": "an import that leaves the folder",
    "E0221": "files that import each other",
    "E0223": "a file that is not there",
    "E0224": "no model",
    "E0226": "a model without an output",
    "E0227": "something made of itself",
    "E0230": "a spec that asks for too much",
    "E0231": "a number that is too large",
    "E0232": "a plan that does not fit its flow",
    "E0233": "lists that do not pair up",
    "E0234": "an index that stands for nothing",
    # --- shapes
    "E0301": "two sizes that should be one",
    "E0302": "a width that nothing says",
    "E0303": "key and value heads that do not divide the heads",
    "E0304": "a decision where a tensor is needed",
    "E0306": "something that cannot be an expert",
    "E0307": "heads where there are none",
    "E0308": "channels that do not pair up",
    "E0309": "a layer that changes the stream's shape",
    "E0310": "a window without a causal mask",
    "E0311": "scores that cannot be built",
    "E0313": "a place without weights to share",
    "E0315": "ids and numbers taken for each other",
    "E0316": "a sequence where single tokens are",
    "E0321": "a ramp the wrong way round",
    "E0322": "sinks beside scores that are written out",
    "E0330": "distances that cannot be cut into buckets",
    "E0331": "distances between two streams",
    "E0332": "a shared table of two sizes",
    "E0350": "something that counts tokens, in a stream without ids",
    "E0351": "an image that cannot be cut up",
    "E0352": "a length that is not known",
    # --- routing and causality
    "E0401": "more experts are picked than there are",
    "E0402": "a router that does not know its choices",
    "E0403": "a score of another size than the choices",
    "E0404": "a mixture without experts",
    "E0405": "a mixture without a decision",
    "E0406": "a decision among other choices",
    "E0407": "a loss that pools unequal mixtures",
    "E0408": "a weight per expert where none was chosen",
    "E0409": "a selection that narrows and never picks",
    "E0410": "an output that sees what it should predict",
    "E0411": "groups of choices that do not come out even",
    "E0412": "a kind of experts that the bank lacks",
    "E0420": "a selection that its router's other settings do not fit",
    "E0421": "a projection that leaves tokens out",
    "E0425": "a rule for decoding that nothing teaches",
    "E0430": "parts that do not come out even",
    "E0431": "weights or rows shared by decisions for heads",
    "E0432": "a mixture per head with something of the token",
    "E0413": "a share of what is no distribution",
    "E0414": "ids or labels that do not name the choices",
    "E0450": "picks asked of soft slots",
    "E0451": "experts that cannot be merged",
    # --- losses and gradients
    "E0501": "a parameter that no gradient reaches",
    "E0502": "a loss that moves no parameter",
    "E0503": "a load where no noise makes it smooth",
    "E0504": "losses that read one decision in two ways",
    "E0505": "a loss over first choices where none is first",
    "E0506": "a reconstruction where nothing is rebuilt",
    # --- checkpoints
    "E0601": "a path of a checkpoint that no weight has",
    "E0602": "a weight that a checkpoint leaves out",
    "E0603": "something that a checkpoint has twice",
    "E0604": "steps that do not fit their places",
    "E0605": "an index that the name lacks",
    # --- stages of training
    "E0606": "a selection that no weight is in",
    "E0607": "a stage that starts from one that is not there",
    "E0608": "a stage that changes the weights themselves",
    # --- warnings
    "W1001": "a router whose one weight is always 1",
    "W1002": "a place that nothing reads",
    "W1003": "a loss with a coefficient of 0",
    "W1004": "a weight that no stage trains",
    "W1005": "a loss over what is even anyway",
    "W1006": "experts that cost nothing, balanced with those that do",
    "W1010": "a declaration that nothing reads",
}
