"""What the reports have in common: one HTML page that needs no network."""

from collections.abc import Sequence
from html import escape

_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--soft:#f3f5f7;--text:#1b2127;--faint:#5d6875;
--edge:#d5dbe1;--one:#0072b2;--two:#d55e00;--three:#009e73;--four:#b8609a;--five:#a67c00;--six:#3f7fae;--seven:#777;
--eight:#7a3db8;--good:#1a7f42;--bad:#c62828;
--none:#8a6d00;--mark:#c6282844}
@media(prefers-color-scheme:dark){:root{--ground:#14181d;--soft:#1d232a;--text:#e4e9ee;
--faint:#9aa7b4;--edge:#333c46;--one:#56b4e9;--two:#ff9a52;--three:#3fd0a4;--four:#e79bd0;--five:#e8c547;--six:#8ec7ec;
--seven:#aaa;--eight:#c09af0;--good:#5fd38a;
--bad:#ff7b72;--none:#e3c04f;--mark:#ff7b7255}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:66rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
.about{color:var(--faint);margin:.3rem 0 1.2rem}
.verdict{font-size:1.15rem;font-weight:600;padding:.8rem 1rem;border-left:.4rem solid;
background:var(--soft)}
.held{color:var(--good)}.broken{color:var(--bad)}.not-covered{color:var(--none)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.35rem .5rem;border-bottom:1px solid var(--edge);vertical-align:top}
th{color:var(--faint);font-weight:600}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.v{font-weight:600;white-space:nowrap}
figure{margin:1rem 0}figcaption{font-size:.92rem;color:var(--faint)}
svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--faint)}
.grid{stroke:var(--edge);stroke-width:1}.mark{stroke:var(--mark);stroke-width:2}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.one{stroke:var(--one);color:var(--one)}.two{stroke:var(--two);color:var(--two)}
.three{stroke:var(--three);color:var(--three)}.four{stroke:var(--four);color:var(--four)}
.five{stroke:var(--five);color:var(--five)}.six{stroke:var(--six);color:var(--six)}
.seven{stroke:var(--seven);color:var(--seven)}.eight{stroke:var(--eight);color:var(--eight)}
.bar{fill:var(--one)}
.key{margin-left:.8rem;font-weight:600}
article{border:1px solid var(--edge);border-left:.4rem solid var(--bad);padding:.6rem 1rem;
margin:.8rem 0}
pre{background:var(--soft);padding:.7rem;overflow-x:auto;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.85rem;margin:.4rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:.4rem 0}
dt{color:var(--faint)}dd{margin:0;overflow-wrap:anywhere}
li{margin:.2rem 0}
"""


def document(title: str, sections: Sequence[str]) -> str:
    """The whole page; ``sections`` are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A part with a heading; ``body`` is HTML already."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """A table of cells that are HTML already; columns from some number on hold numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if place >= numbers_from else ''}>{cell}</{tag}>"
            for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", heads)}</tr>{body}</table></div>'
