"""The frame of every page of ours: one document that needs nothing else, light and dark, on paper and on a telephone.

Everything that somebody wrote is escaped, and should that ever fail, the page's policy allows no script but the one
that is named in it, no request that it was not given, and no form.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from importlib.resources import files

from asyncthink.viewer.marks import Markup, tag


def part(name: str) -> str:
    """Return a file of this package: style.css, or a script."""
    return files("asyncthink.viewer").joinpath(name).read_text(encoding="utf-8")


def whole(
    title: str,
    body: Iterable[Markup],
    *,
    script: str = "",
    requests: bool = False,
    images: bool = False,
    generator: str = "asyncthink",
) -> str:
    """Return a document.

    Args:
        title: of the page, clean.
        body: its pieces.
        script: the only one that it may run.
        requests: whether that may ask the page's own server.
        images: whether pictures stand in it as data.
        generator: the command that it was made with.
    """
    allowed = ["default-src 'none'", "style-src 'unsafe-inline'"]
    allowed += ["img-src data:"] if images or script else []
    allowed += ["base-uri 'none'", "form-action 'none'"]
    if script:
        digest = b64encode(sha256(script.encode()).digest()).decode()
        allowed.append(f"script-src 'sha256-{digest}'")
    if requests:
        allowed.append("connect-src 'self'")
    policy = {"http-equiv": "Content-Security-Policy", "content": "; ".join(allowed)}
    top = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", **policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="generator", content=generator),
        # Else a browser asks a server for one.
        *([tag("link", rel="icon", href="data:,")] if script else []),
        tag("title", title),
        tag("style", Markup(part("style.css"))),
    )
    last = [tag("script", Markup(script))] if script else []
    pieces = (each for one in (*body, *last) for each in (one, "\n"))
    return f"<!DOCTYPE html>\n{tag('html', top, chr(10), tag('body', *pieces), lang='en')}\n"
