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
    # --- routing and causality
    "E0401": "more experts are picked than there are",
    "E0410": "an output that sees what it should predict",
    # --- losses and gradients
    "E0501": "a parameter that no gradient reaches",
    "E0502": "a loss that moves no parameter",
    # --- warnings
    "W1001": "a router whose one weight is always 1",
    "W1002": "a place that nothing reads",
    "W1003": "a loss with a coefficient of 0",
}
