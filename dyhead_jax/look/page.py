"""One HTML page with everything in it: it needs no other file and no network."""

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple


class Picture(NamedTuple):
    """A PNG file: its name, its bytes, and what it shows, in a few words."""

    name: str
    png: bytes
    shows: str


class Section(NamedTuple):
    """A heading, a sentence that says what the pictures are, their source, and the pictures."""

    title: str
    says: str
    source: str
    pictures: Sequence[Picture]


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #616e7c; --paper: #f7f8fa; --card: #fff; --line: #e1e5ea; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --muted: #9aa5b1; --paper: #14181d; --card: #1d232a; --line: #313a44; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .2rem; }
p { margin: 0 0 .6rem; max-width: 46rem; }
.muted { color: var(--muted); font-size: .9rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
section { padding: 1.1rem; margin-top: 1.4rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .9rem 1.4rem; align-items: start; margin-top: .9rem; }
figure { margin: 0; max-width: 100%; overflow-x: auto; }
figcaption { color: var(--muted); font-size: .9rem; position: sticky; left: 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
@media (max-width: 600px) { section { padding: .8rem; } img.wide { max-width: none; width: 820px; } }
"""


def render(title: str, facts: Sequence[str], sections: Sequence[Section], notes: Sequence[str]) -> str:
    """The page. facts: a line each below the title; notes: what is not shown, a line each. Texts are escaped."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="muted">{html.escape(fact)}</p>' for fact in facts]
    for section in sections:
        parts.append(f"<section><h2>{html.escape(section.title)}</h2><p>{html.escape(section.says)}</p>")
        if section.source:
            parts.append(f'<p class="muted">Source: {html.escape(section.source)}</p>')
        figures = "\n".join(_figure(picture) for picture in section.pictures)
        parts.append(f'<div class="pictures">{figures}</div></section>')
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        parts.append(f"<section><h2>Not shown</h2><ul>{items}</ul></section>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body>\n</html>\n"
    )


def _figure(picture: Picture) -> str:
    encoded = base64.b64encode(picture.png).decode()
    width = int.from_bytes(picture.png[16:20], "big")  # of the PNG header
    shows = html.escape(picture.shows)
    kind = ' class="wide"' if width > 820 else ""
    image = f'<img{kind} alt="{shows}" src="data:image/png;base64,{encoded}">'
    return f"<figure><figcaption>{shows}</figcaption>{image}</figure>"
