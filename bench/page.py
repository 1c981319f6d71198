"""What the reports have in common: one HTML page that needs no network."""

from collections.abc import Sequence
from html import escape

_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--soft:#f3f5f7;--text:#1b2127;--faint:#5d6875;
--edge:#d5dbe1;--good:#1a7f42;--bad:#c62828;--none:#8a6d00;--mark:#c6282866;
--one:#1f6feb;--two:#d55e00;--three:#009e73;--four:#aa4499;--five:#333333;--six:#4b3fa7;
--seven:#777;--eight:#1b2127}
@media(prefers-color-scheme:dark){:root{--ground:#14181d;--soft:#1d232a;--text:#e4e9ee;
--faint:#9aa7b4;--edge:#333c46;--good:#5fd38a;--bad:#ff7b72;--none:#e3c04f;--mark:#ff7b7277;
--one:#4aa3ff;--two:#ff8c42;--three:#1fa67e;--four:#ffb3e0;--five:#ffffbb;--six:#8f7fe8;
--seven:#999;--eight:#e4e9ee}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:73rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.6rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
.about{color:var(--faint);margin:.3rem 0 1.2rem}
.verdict{font-size:1.15rem;font-weight:600;padding:.8rem 1rem;border-left:.4rem solid;
background:var(--soft)}
.held{color:var(--good)}.broken{color:var(--bad)}.not-covered{color:var(--none)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.35rem .5rem;border-bottom:1px solid var(--edge);vertical-align:top}
th{color:var(--faint);font-weight:600;vertical-align:bottom}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td.n,td:first-child{white-space:nowrap}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr));
gap:1.2rem 1.6rem}
figure{margin:0;min-width:0;break-inside:avoid}
figcaption{font-size:.92rem;color:var(--faint);margin-bottom:.3rem}
figure>svg{width:100%;height:auto;display:block}
svg text{font:12px system-ui,sans-serif;fill:var(--faint)}
.grid{stroke:var(--edge)}.mark{stroke:var(--mark);stroke-width:1.5}.over{fill:transparent}
.over:hover{fill:var(--mark)}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round;pointer-events:none}
.line.six,.line.seven,.line.eight{stroke-dasharray:5 3}
.dot{fill:currentColor}.dot.two{fill:var(--ground)}
.one{stroke:var(--one);color:var(--one)}.two{stroke:var(--two);color:var(--two)}
.three{stroke:var(--three);color:var(--three)}.four{stroke:var(--four);color:var(--four)}
.five{stroke:var(--five);color:var(--five)}.six{stroke:var(--six);color:var(--six)}
.seven{stroke:var(--seven);color:var(--seven)}.eight{stroke:var(--eight);color:var(--eight)}
.bar{fill:var(--one)}
.key{margin-left:.9rem;white-space:nowrap;color:var(--text)}
.key i{display:inline-block;width:1.3em;border-top:3px solid;vertical-align:.25em;
margin-right:.35em}
.key .six,.key .seven,.key .eight{border-top-style:dashed}
.bars{display:grid;grid-template-columns:max-content 1fr max-content;gap:.3rem .6rem;
font-size:.85rem;align-items:center}
.bars svg{width:100%;height:.9rem;display:block}
.bars span:nth-of-type(even){font-variant-numeric:tabular-nums;text-align:right}
article{border:1px solid var(--edge);border-left:.4rem solid var(--bad);padding:.6rem 1rem;
margin:.8rem 0}
pre{background:var(--soft);padding:.7rem;overflow-x:auto;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.85rem;margin:.4rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:.4rem 0}
dt{color:var(--faint)}dd{margin:0;overflow-wrap:anywhere}
li{margin:.2rem 0}
@media(max-width:40rem){table{font-size:.8rem}th,td{padding:.3rem .25rem}.bars{font-size:.75rem}
main{padding:1rem .8rem 3rem}}
@media print{main{max-width:none;padding:0}table{font-size:.7rem}}
"""


def document(title: str, sections: Sequence[str]) -> str:
    """The whole page; ``sections`` are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def figures(charts: Sequence[str]) -> str:
    """Charts, two in a row where there is room."""
    return f'<div class="charts">{"".join(charts)}</div>'


def section(title: str, body: str) -> str:
    """A part with a heading; ``body`` is HTML already."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """A table of cells that are HTML already; columns from some number on hold numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        numbers = f'<{tag} class="n">'
        return "".join(
            f"{numbers if place >= numbers_from else f'<{tag}>'}{cell}</{tag}>"
            for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", heads)}</tr>{body}</table></div>'
