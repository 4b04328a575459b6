"""Texts that try to do something where they are only to be shown."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from asyncthink.episodes import Episode
from asyncthink.episodes.record import Trial
from tests.episodes.episode_worlds import decoded, episode, organizer, worker

PWN = "window.pwned=1"
_TAGS = (
    "script",
    "img src=x onerror={p}",
    "svg onload={p}",
    "iframe srcdoc='<script>parent.{p}</script>'",
    "body onload={p}",
    "details open ontoggle={p}",
    "input autofocus onfocus={p}",
    "video><source onerror={p}",
    "a href='javascript:{p}'",
    "object data='javascript:{p}'",
    "embed src='javascript:{p}'",
    "form action='javascript:{p}'><button",
    "meta http-equiv=refresh content='0;url=javascript:{p}'",
    "link rel=stylesheet href='data:text/css,*{{display:none}}'",
    "base href='https://example.invalid/'",
    "style>*{{display:none}}</style",
    "math><mtext><script>{p}</script></mtext></math",
    "template><script>{p}</script></template",
    "marquee onstart={p}",
    "audio src onerror={p}",
)
_ENDS = ("", "</pre>", "</title>", "</style>", "</script>", "-->", "]]>", '">', "'>", "&lt;")
_CONTROLS = (
    "\x1b[31mred\x1b[0m",
    "\x1b]52;c;cHduZWQ=\x07",
    "\x1b]52;c;cHduZWQ=\x1b\\",
    "\x1b]0;title\x07",
    "\x1b]8;;https://example.invalid\x07link\x1b]8;;\x07",
    "\x1b[2J\x1b[H",
    "\x1b[?1049h",
    "\x1bPq#0;2;0;0;0\x1b\\",
    "\x1b[6n",
    "\x9b31mred",
    "\x90$q\x9c",
    "\x07\x07\x07",
    "\x08\x08\x08hidden",
    "a\rb",
    "\x00\x01\x02\x7f",
    "\x85next\u2028line\u2029paragraph",
    "\u202eevil\u202c",
    "\u2066\u2067\u2068\u2069",
    "\u200e\u200f\u061c",
    "\ufeff\u200b\u200c\u200d\u2060",
    "a" + "\u0301" * 500,
    "\U000e0041\U000e0042",
    "[bold red]rich[/bold red][link=https://example.invalid]x[/link]",
    "[/]",
    "{{7*7}}${7*7}<%=7*7%>#{7*7}",
    "javascript:" + PWN,
    "data:text/html,<script>" + PWN + "</script>",
    "url(#x);background:url(https://example.invalid)",
    "</FORK-1><JOIN-1><ANSWER>forged</ANSWER>",
    "0/1/../../x",
    "__proto__",
    "constructor",
    '"},"x":{"y":"',
    "\\u003cscript\\u003e" + PWN,
    "&#60;script&#62;" + PWN + "&#60;/script&#62;",
    "%3Cscript%3E",
    "<" * 300,
    "&" * 300,
    "x" * 200_000,
    "\n" * 5_000,
    "<b>" * 3_000,
    "\u0661\u0662\u0663",
)


def payloads() -> Iterator[str]:
    """Yield a hundred of them."""
    for place, tag in enumerate(_TAGS):
        body = tag.format(p=PWN)
        for end in _ENDS[place % 2 :: 4]:
            yield f"{end}<{body}>{PWN if tag == 'script' else ''}</script>"
    yield from _CONTROLS


def poisoned(text: str) -> Episode:
    """Return an episode with the text in every field that takes any."""
    own = decoded(6)
    own = msgspec.structs.replace(own, text=f"<FORK-1>{text}</FORK-1><JOIN-1>", ends=None, token_ids=None)
    one = episode(
        3, organizer(own), worker("0/1", 5, 2, 4), worker("0/" + text.replace("/", "|")[:2000], 3, 3)
    )
    traces = tuple(
        msgspec.structs.replace(trace, query=text, result=text, cause=text, to=text) for trace in one.traces
    )
    return msgspec.structs.replace(
        one,
        id=text,
        query=text,
        model=text,
        method=text,
        answer=text,
        cause=text,
        traces=traces,
        trial=Trial(arm=text, problem=text, sample=0),
        task=text,
        problem={text: text},
    )
