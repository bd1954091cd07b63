"""What to say about a lexeme that does not fit: in the words people use, at the place that must change."""

from __future__ import annotations

from moedsl.diagnostics.model import Diagnostic, Edit, Label
from moedsl.source import Source, Span
from moedsl.syntax.lexer import Lexeme

_WORDS = {
    "_NL": "the end of the line",
    "$END": "the end",
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a text",
    "_ON": "`on`",
    "_WITH": "`with`",
    "FROM": "`from`",
    "IMPORT": "`import`",
    "EQUAL": "`=`",
    "PLUS_EQUAL": "`+=`",
    "ARROW_EQUAL": "`->=`",
    "ARROW": "`->`",
    "PLUS": "`+`",
    "MINUS": "`-`",
    "STAR": "`*`",
    "SLASH": "`/`",
    "COMMA": "`,`",
    "DOT": "`.`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
}
_ASSIGNMENTS = {"EQUAL", "PLUS_EQUAL", "ARROW_EQUAL"}
_OPERATORS = {"PLUS", "MINUS", "STAR", "SLASH"}
_VALUE_STARTS = {"NAME", "NUMBER", "STRING", "LPAR", "LSQB", "MINUS"}
_VALUE_ENDS = {"NAME", "NUMBER", "STRING", "RPAR", "RSQB", "RBRACE"}
_OPENERS = {"LPAR": "RPAR", "LSQB": "RSQB"}
# Said last or not at all: where a value may end, it may nearly always go on.
_GOING_ON = {
    "ARROW",
    "PLUS",
    "MINUS",
    "STAR",
    "SLASH",
    "DOT",
    "LPAR",
    "LSQB",
    "LBRACE",
    "_WITH",
    "_ON",
}


def explain(
    source: Source, lexemes: list[Lexeme], began: int, at: int, expected: set[str]
) -> Diagnostic:
    """The diagnostic for lexeme `at`, in the statement whose first lexeme is at `began`."""
    bad = lexemes[at]
    before = lexemes[at - 1] if at > began else None
    statement = lexemes[began:at]
    if diagnostic := _by_habit(lexemes, began, at, before, expected):
        return diagnostic
    opener = _open_bracket(statement)
    secondary: tuple[Label, ...] = ()
    if opener and "\n" in source.text[opener.span.start : bad.span.start]:
        secondary = (Label(opener.span, "inside the bracket that opens here"),)
    message = f"expected {_listed(expected)}, found {_found(bad)}"
    return Diagnostic("E0101", message, Label(bad.span, _hint(before, bad, expected)), secondary)


def two_statements(lexemes: list[Lexeme], at: int) -> Diagnostic:
    bad, before = lexemes[at], lexemes[at - 1]
    label = Label(bad.span, "a new line starts here")
    edit = Edit(Span(before.span.end, bad.span.start, bad.span.file), "\n")
    return Diagnostic("E0112", "two statements stand on one line", label, edits=(edit,))


def _by_habit(
    lexemes: list[Lexeme], began: int, at: int, before: Lexeme | None, expected: set[str]
) -> Diagnostic | None:
    bad = lexemes[at]
    after = lexemes[at + 1] if at + 1 < len(lexemes) else bad
    if lexemes[began].text == "import" and len(lexemes[began:at]) and "EQUAL" not in expected:
        return _import(bad, before, expected)
    if _dangles(before, bad):
        return _dangling(before, bad, after if goes_on_below(lexemes, at) else None)
    if bad.type in _OPERATORS and after.type == "EQUAL" and bad.span.end == after.span.start:
        return _operator_assignment(bad, after)
    if before is None:
        return _no_start(bad)
    if before.type == "EQUAL" and bad.type == "LBRACE":
        return _body_as_value(before, bad)
    statement = lexemes[began:at]
    opener = _open_bracket(statement)
    if _lacks_equal(statement, opener, before, bad, expected):
        return _missing_equal(before, bad)
    if opener and "COMMA" in expected and before.type in _VALUE_ENDS and bad.type in _VALUE_STARTS:
        return _missing_comma(before, bad)
    if opener is None and "_NL" in expected and bad.type == "COMMA" and after.type == "NAME":
        return _comma_between_statements(bad)
    if opener is None and "_NL" in expected and bad.type == "NAME" and after.type in _ASSIGNMENTS:
        return two_statements(lexemes, at)
    if before.type == "NUMBER" and bad.type == "NAME" and "STAR" in expected:
        return _missing_star(before, bad, after)
    if (
        opener is None
        and bad.type in ("_NL", "LPAR", *_OPERATORS, "ARROW")
        and not _assigns(statement)
    ):
        return _says_nothing(statement, bad) if "EQUAL" in expected else None
    return None


# --- one slip each -----------------------------------------------------------------------------


def _import(bad: Lexeme, before: Lexeme | None, expected: set[str]) -> Diagnostic:
    message = f"expected {_listed(expected)}, found {_found(bad)}"
    help = 'an import is written `import mixtral_8x7b from "mixtral_8x7b.moe"`'
    return Diagnostic("E0114", message, Label(bad.span), help=help)


def _dangles(before: Lexeme | None, bad: Lexeme) -> bool:
    starts = before is None and bad.type in {"ARROW", *_OPERATORS}
    ends = (
        before is not None and before.type in {"ARROW", *_OPERATORS} and bad.type in ("_NL", "$END")
    )
    return starts or ends


def goes_on_below(lexemes: list[Lexeme], at: int) -> bool:
    """Whether the line ends in an arrow or operator and the next one is the rest of it, no statement of its own."""
    if lexemes[at].type != "_NL" or at == 0 or lexemes[at - 1].type not in {"ARROW", *_OPERATORS}:
        return False
    kinds: list[str] = []
    depth = 0
    for lexeme in lexemes[at + 1 :]:
        depth += (lexeme.type in ("LPAR", "LSQB", "LBRACE")) - (
            lexeme.type in ("RPAR", "RSQB", "RBRACE")
        )
        if lexeme.type == "_NL" and depth <= 0:
            break
        if depth == 0:
            kinds.append(lexeme.type)
    declares = kinds[:2] == ["NAME", "NAME"]
    return (
        bool(kinds) and kinds[0] in _VALUE_STARTS and not declares and not _ASSIGNMENTS & {*kinds}
    )


def _dangling(before: Lexeme | None, bad: Lexeme, rest: Lexeme | None) -> Diagnostic:
    if before is not None:
        help = "a line that starts with `->` continues the one above: move it down"
        if before.type != "ARROW":
            help = "the end of the line ends the statement; inside ( ) it goes on"
        edits: tuple[Edit, ...] = ()
        if rest is not None and before.type == "ARROW":
            down = Edit(Span(rest.span.start, rest.span.start, rest.span.file), "-> ")
            edits = (Edit(before.span, ""), down)
        message, label = (
            f"nothing follows this `{before.text}`",
            Label(before.span, "the line ends here"),
        )
        return Diagnostic("E0109", message, label, help=help, edits=edits)
    message = f"nothing stands before this `{bad.text}`"
    if bad.type == "ARROW":
        return Diagnostic("E0109", message, Label(bad.span, "no line above that it could continue"))
    help = "only `->` continues the line above; a longer sum or product goes on inside ( )"
    return Diagnostic("E0109", message, Label(bad.span, "a statement cannot start so"), help=help)


def _operator_assignment(bad: Lexeme, after: Lexeme) -> Diagnostic:
    span = bad.span.to(after.span)
    help = "`=` replaces, `+=` adds beside, `->=` follows"
    return Diagnostic("E0110", f"there is no `{bad.text}=`", Label(span), help=help)


def _body_as_value(before: Lexeme, bad: Lexeme) -> Diagnostic:
    help = "a recipe is `moe sparse { ... }`, or `moe sparse = recipe with { ... }`"
    edit = Edit(Span(before.span.start, bad.span.start, bad.span.file), "")
    label = Label(before.span, "leave this out")
    return Diagnostic("E0110", "a body is not set with `=`", label, help=help, edits=(edit,))


def _no_start(bad: Lexeme) -> Diagnostic:
    message = f"a statement starts with a name, not with {_found(bad)}"
    help = "a setting is `heads = 32`, a recipe `router top2 { ... }`"
    return Diagnostic("E0101", message, Label(bad.span), help=help)


def _lacks_equal(
    statement: list[Lexeme], opener: Lexeme | None, before: Lexeme, bad: Lexeme, expected: set[str]
) -> bool:
    if "EQUAL" not in expected or before.type not in _VALUE_ENDS:
        return False
    if opener is not None:
        return bad.type in ("NUMBER", "STRING")
    return bad.type in _VALUE_STARTS - {"LPAR"} and not _assigns(statement)


def _missing_equal(before: Lexeme, bad: Lexeme) -> Diagnostic:
    gap = Span(before.span.end, bad.span.start, bad.span.file)
    message = f"`=` is missing between `{before.text}` and {_shown(bad)}"
    return Diagnostic(
        "E0110", message, Label(bad.span, "`=` belongs before this"), edits=(Edit(gap, " = "),)
    )


def _missing_comma(before: Lexeme, bad: Lexeme) -> Diagnostic:
    place = Span(before.span.end, before.span.end, bad.span.file)
    message = f"`,` is missing between `{before.text}` and {_shown(bad)}"
    label = Label(bad.span, "`,` belongs before this")
    return Diagnostic("E0112", message, label, edits=(Edit(place, ","),))


def _missing_star(before: Lexeme, bad: Lexeme, after: Lexeme) -> Diagnostic:
    """`8 swiglu(64)`, and `8 x swiglu(64)` as papers print it."""
    times = bad.text == "x" and after.type == "NAME"
    gap = Span(before.span.end, after.span.start if times else bad.span.start, bad.span.file)
    name = after.text if times else bad.text
    message = f"`*` is missing between `{before.text}` and `{name}`"
    label = Label(bad.span, "write `*`" if times else "`*` belongs before this")
    help = f"copies are counted as in `{before.text} * {name}`"
    return Diagnostic("E0101", message, label, help=help, edits=(Edit(gap, " * "),))


def _comma_between_statements(bad: Lexeme) -> Diagnostic:
    label = Label(bad.span, "a new line starts behind this")
    return Diagnostic("E0112", "`,` separates no statements", label, edits=(Edit(bad.span, "\n"),))


def _says_nothing(statement: list[Lexeme], bad: Lexeme) -> Diagnostic:
    span = statement[0].span.to(statement[-1].span)
    name = statement[0].text
    message = "this line sets nothing and declares nothing"
    help = f"a setting is `{name} = ...`, a recipe `kind {name} = ...` or `kind {name} {{ ... }}`"
    return Diagnostic("E0111", message, Label(span, "no `=` and no body follows"), help=help)


# --- words -------------------------------------------------------------------------------------


def _assigns(statement: list[Lexeme]) -> bool:
    return any(lexeme.type in _ASSIGNMENTS for lexeme in statement)


def _open_bracket(statement: list[Lexeme]) -> Lexeme | None:
    stack: list[Lexeme] = []
    for lexeme in statement:
        if lexeme.type in ("LPAR", "LSQB", "LBRACE"):
            stack.append(lexeme)
        elif lexeme.type in ("RPAR", "RSQB", "RBRACE") and stack:
            stack.pop()
    return stack[-1] if stack else None


def _listed(expected: set[str]) -> str:
    words = []
    rest = set(expected)
    if {"NAME", "NUMBER", "LPAR"} <= rest:
        words.append("a value")
        rest -= _VALUE_STARTS
    elif rest - _GOING_ON:
        rest -= _GOING_ON
    words += [_WORDS[kind] for kind in _WORDS if kind in rest]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _found(lexeme: Lexeme) -> str:
    return _WORDS[lexeme.type] if lexeme.type in ("_NL", "$END") else _shown(lexeme)


def _shown(lexeme: Lexeme) -> str:
    text = lexeme.text if len(lexeme.text) <= 30 else f"{lexeme.text[:27]}..."
    return text if lexeme.type == "STRING" and "`" in text else f"`{text}`"


def _hint(before: Lexeme | None, bad: Lexeme, expected: set[str]) -> str:
    if before is not None and before.type in _ASSIGNMENTS and bad.type == "_NL":
        return f"a value belongs behind `{before.text}`"
    if before is not None and before.text == "with" and expected == {"LBRACE"}:
        return "edits stand in `{ }`"
    if "_NL" in expected and before is not None and before.type in _VALUE_ENDS:
        return "the statement could end before this"
    return ""
