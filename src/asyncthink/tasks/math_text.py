r"""What of a model's text is its answer, and what plain numbers say: contest mathematics as far as text goes.

What counts is decided by one rule; nothing else of the text is looked at:

1. the contents of the last \boxed{...} or \fbox{...};
2. else what follows the last "answer is", "answer:" or "answer =" on its line, else the whole text;
3. of a sentence or several lines, the last run of formulas ($...$, \(...\), \[...\]) and words that are no
   English; one with a digit or a LaTeX command, if there is any. A run goes on past "or" and "and": "27 or 28"
   is not 27;
4. the last side of a chain of equations, unless the known answer is an equation.

Everything here is a scan of at most `MAX_CHARS` characters; nothing is evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 2000
"""A longer answer is looked through for its last box only."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_ANSWER_IS = re.compile(r"answer\s*(?:is|:|=)[\s:*]*", re.IGNORECASE)
_FORMULA = re.compile(r"\$\$[^$]+\$\$|\$[^$]+\$|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)
_WRAPPED = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_WHOLE = re.compile(rf"{_FORMULA.pattern}|\\begin\{{.*\\end\{{|{_WRAPPED.pattern}", re.DOTALL)
"""What may have blanks in it and yet is one word of a sentence."""
_WORD = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]{2,}")
_SMALL_WORD = re.compile(r"am|an|and|as|at|be|by|do|for|he|if|in|is|it|me|my|no|of|on|or|so|to|up|us|we")
_NAME = re.compile(r"arc(?:cos|sin|tan)|cos|cot|csc|det|exp|gcd|lcm|log|max|min|mod|sec|sin|sqrt|tan")
"""Words of three letters and more that belong to a formula."""
_SCALE = r"(?:hundred|thousand|million|billion|trillion|dozen|half|halves|thirds?|quarters?|squared|cubed|factorial)"
"""Words that make another number of the one before them."""
_LABEL = re.compile(r"\\(?:triangle|angle|overline|odot|vec|[][()])")
"""Commands that name a thing and have no value."""

_SPELLINGS = str.maketrans(
    dict.fromkeys("−–", "-")
    | {"π": "\\pi ", "∞": "\\infty ", "°": "^\\circ ", "²": "^2", "³": "^3", "×": "\\times ", "·": "\\cdot "}
    | {"≤": "\\le ", "≥": "\\ge ", "∪": "\\cup "}
)
_ROOT = re.compile(r"√\s*([0-9]+|[a-zA-Z])")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\\,|\{,\}|,\\!)(?=[0-9]{3}(?![0-9]))")
# The look-behinds: two backslashes end the row of a matrix, whatever comes after them.
_BLANK = re.compile(r"(?<!\\)\\(?:[,;:! ]|q?quad(?![a-zA-Z])|displaystyle(?![a-zA-Z]))|~|\s+")
_INVISIBLE = re.compile(r"\\?\$|(?<!\\)\\(?:[][()]|(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z]))")
_ANY_FRACTION = re.compile(r"\\[dtc]?frac(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])")
_DIGITS = r"(?:[0-9]{1,3}(?:[, ][0-9]{3})+(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_FRACTION = re.compile(rf"\\frac\s*\{{\s*([-+]?{_DIGITS})\s*\}}\s*\{{\s*({_DIGITS})\s*\}}")
_UNIT = (
    r"(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|(?:square |sq\.? |cubic )?(?:degrees?|deg|minutes?|min|hours?|seconds?|sec"
    r"|days?|weeks?|months?|years?|miles?|mph|km|cm|mm|kg|meters?|metres?|inch|inches|feet|foot|ft|yards?|units?"
    r"|dollars?|cents?|points?|ways?)(?: per (?:hour|minute|second))?\s*(?:\^\s*\{?[23]\}?)?)"
)
"""Units that follow a number and change nothing of it."""
_PLAIN = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<whole>[0-9]+)\s+(?P<part>[0-9]+/[0-9]+)"
    rf"|(?P<top>[-+]?{_DIGITS})(?:\s*/\s*(?P<under>{_DIGITS}))?)\s*(?:(?P<percent>\\?%|percent)|{_UNIT})?"
)
_TO_DO = re.compile(r"\\(?:sum|prod|i*int|oint|lim)(?![a-zA-Z])")


# What counts


def boxed(text: str) -> str | None:
    r"""Return the contents of the last \boxed{...}, None where there is none that ends within the limit."""
    box = _BOX.match(text, max(text.rfind("\\boxed"), text.rfind("\\fbox"), 0))
    if box is None:
        return None
    contents = text[box.end() : box.end() + MAX_CHARS + 1]
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", contents, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return contents[: brace.start()]
    return contents if len(contents) <= MAX_CHARS else None


def stated(answer: str, gold: str) -> str | None:
    """Return what of an answer counts, tidy; None for one that is too long to look for it.

    Args:
        answer: what a model wrote.
        gold: the tidy known answer, or nothing; it decides whether an equation is reduced to its last side.
    """
    value = boxed(answer)
    if value is None:
        if len(answer) > MAX_CHARS:
            return None
        value = _after_answer_is(answer.replace("**", ""))
    if plain(tidy(value)) is not None or squeezed(tidy(value)) == squeezed(gold):
        return tidy(value)
    value = tidy(_last_run(value) if "\n" in value.strip() or _has_words(value) else value)
    *others, last = _sides(value)
    is_chain = others and not re.search(r"[,;<>]", "".join(others))
    return tidy(last) if is_chain and len(_sides(gold)) == 1 else value


def _after_answer_is(text: str) -> str:
    *_, found = [None, *_ANSWER_IS.finditer(text)]
    rest = text[found.end() :].strip() if found else ""
    if not rest:
        return text
    formula = _FORMULA.match(rest)
    end = rest.find("\n", formula.end() if formula else 0)
    return rest if end < 0 else rest[:end]


def _sides(text: str) -> list[str]:
    """Split at equals signs, but not inside of braces: the lower end of a sum is no equation."""
    depth, ends = 0, [-1]
    for found in re.finditer(r"\\.|[{}]|(?<![<>!:=])=(?!=)", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if found[0] == "=" and depth == 0:
            ends.append(found.start())
    return [text[start + 1 : end] for start, end in zip(ends, [*ends[1:], None], strict=True)]


def _has_words(text: str) -> bool:
    """Return whether there is an English word outside of \\text{...}."""
    for word in _WORD.findall(_WRAPPED.sub(" ", text)):
        if _SMALL_WORD.fullmatch(word.lower()):
            return True
        if len(word) > 2 and not word.isupper() and not _NAME.fullmatch(word.lower()):
            return True
    return False


def _last_run(text: str) -> str:
    """Return the last run of formulas and words that are no English; the text itself where there is none."""
    text = _WHOLE.sub(lambda found: re.sub(r"\s", "~", found[0]), text)
    runs: list[str] = [""]
    for word in re.findall(r"\n|\S+", text):
        joins = word.lower() in ("or", "and") and runs[-1]
        if joins or _is_formula(word):
            runs[-1] += "," if joins else f" {word}"
        elif runs[-1]:
            runs.append("")
        if word[-1] in "\n.;:?" and runs[-1]:
            runs.append("")
    with_value = [run for run in runs if re.search(r"[0-9\\]", _LABEL.sub("", run))]
    others = [run for run in runs if re.search(r"[a-zA-Z]", run) and re.search(r"[-+*/^=<>$]", run)]
    return re.sub(r",[\s,]*,", ",", [text, *others, *with_value][-1])


def _is_formula(word: str) -> bool:
    if re.search(rf"[0-9\\$]|^{_SCALE}", word, re.IGNORECASE):
        return True
    return word not in ("a", "A", "I", "\n") and not _has_words(word)


# What it says


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A plain number."""

    value: Fraction
    percent: bool = False
    """Whether it was written as a percentage; the value of 50% is 50."""

    def equals(self, other: Number) -> bool:
        """Compare; 50% is 0.5 and also 50, since some ask for a percentage: above 1, no share can be meant."""
        if self.percent == other.percent:
            return self.value == other.value
        percentage, share = (self, other) if self.percent else (other, self)
        return percentage.value / 100 == share.value or (1 < percentage.value == share.value)


def tidy(text: str) -> str:
    """Return LaTeX without what only a reader sees: dollars, sizes, blanks, a full stop; one kind of fraction."""
    text = _ROOT.sub(r"\\sqrt{\1}", text).replace("√(", "sqrt(").replace("√", "\\sqrt")
    text = _THOUSANDS.sub(",", text.translate(_SPELLINGS))
    text = _INVISIBLE.sub("", _BLANK.sub(" ", text))
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", _ANY_FRACTION.sub(r"\\frac", text))
    text = re.sub(r"_\s*\{\s*(\w)\s*\}", r"_\1", text)
    return text.strip().rstrip(".,;: ").lstrip("=: ")


def squeezed(text: str) -> str:
    """Return a text without blanks, but for those that keep two numbers apart."""
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text)


def plain(text: str) -> Number | None:
    """Read a tidy plain number, exactly; None for anything else."""
    text = _FRACTION.sub(r" \1/\2", _WRAPPED.sub(r" \1", text)).strip()
    if text[:1] + text[-1:] in ("()", "{}"):
        text = text[1:-1].strip()
    found = _PLAIN.fullmatch(text)
    if found is None:
        return None
    try:
        if found["part"]:
            value = int(found["whole"]) + Fraction(found["part"])
        else:
            value = _fraction(found["top"]) / _fraction(found["under"] or "1")
    except ZeroDivisionError:
        return None
    return Number(value=-value if found["sign"] == "-" else value, percent=bool(found["percent"]))


def _fraction(digits: str) -> Fraction:
    return Fraction(re.sub("[, ]", "", digits).removesuffix("."))


def words(gold: str) -> str | None:
    """Return the letters of an answer in words, such as \\text{(C)} or Friday; None for mathematics."""
    found = letters(gold)
    if not re.fullmatch(r"[a-z ]+", found):
        return None
    return found if _WRAPPED.search(gold) or max(map(len, found.split())) > 3 else None


def letters(text: str) -> str:
    """Return a text in small letters, without brackets, punctuation and LaTeX around words."""
    return " ".join(re.sub(r"[\s().,'-]+", " ", _WRAPPED.sub(r" \1 ", text)).casefold().split())


def unfit(gold: str, value: str) -> str:
    """Return why a value is no answer whatever it is worth: a parser would read another one than a person."""
    bare = _WRAPPED.sub(r" \1", value)
    if re.search(rf"[0-9}}]\s*{_SCALE}", bare, re.IGNORECASE):
        return "a number with a word that changes it is not read"
    if re.search(r"[0-9]_", value):
        return "a number with a base counts only as the known answer writes it"
    if re.search(r"[0-9] +[0-9.]", bare):
        return "two numbers stand side by side"
    if _TO_DO.search(value) and not _TO_DO.search(gold):
        return "it leaves a sum, product, integral or limit to be worked out"
    return ""
