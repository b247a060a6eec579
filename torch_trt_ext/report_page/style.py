"""The style of the HTML page: light and dark, no fonts or pictures from elsewhere."""

#: Colours of engines, in their order and then again; the picture has the light ones.
ENGINE_COLOURS = ("#2f6fed", "#8a4fdb", "#0d9488", "#c026a3", "#5d8a0f", "#0284c7", "#8b5e34", "#64748b")

_DARK_ENGINE_COLOURS = ("#6ea0ff", "#b58bf5", "#2dd4bf", "#f06ad8", "#a3d045", "#38bdf8", "#d1a274", "#94a3b8")

#: Colour of what stays in PyTorch.
PYTORCH_COLOUR = "#e8590c"

_DARK_PYTORCH_COLOUR = "#ff8a4c"


def _colours(engines: tuple[str, ...], pytorch: str) -> str:
    return "".join(f"--c{number}:{colour};" for number, colour in enumerate(engines)) + f"--pytorch:{pytorch};"


_LIGHT = (
    "color-scheme:light;--page:#f5f6f8;--card:#fff;--ink:#151a22;--muted:#5a6573;--line:#e2e6ec;--soft:#eef1f5;"
    "--good:#0b7a4b;--good-soft:#e3f5ec;--bad:#b42318;--bad-soft:#fdecea;--before:#98a2b1;--link:#c3cad4;--note:#fff7e0;"
    + _colours(ENGINE_COLOURS, PYTORCH_COLOUR)
)

_DARK = (
    "color-scheme:dark;--page:#0d1117;--card:#161b22;--ink:#e6edf3;--muted:#95a1b0;--line:#2b323c;--soft:#1f262f;"
    "--good:#4ade9b;--good-soft:#12301f;--bad:#ff8a80;--bad-soft:#3a1a18;--before:#6b7685;--link:#444d59;--note:#2d2712;"
    + _colours(_DARK_ENGINE_COLOURS, _DARK_PYTORCH_COLOUR)
)

_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,
-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
Arial,sans-serif;-webkit-text-size-adjust:100%;
overflow-wrap:anywhere}
main{max-width:1080px;margin:0 auto;padding:28px 20px 56px}
h1{font-size:24px;line-height:1.25;margin:0}
h2{font-size:17px;margin:0 0 14px}
h3{font-size:14px;margin:18px 0 8px}
p{margin:0 0 10px}
code,svg text.path{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:.92em}
.muted{color:var(--muted)}.small{font-size:12.5px}
.under{margin:4px 0 20px;color:var(--muted)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(225px,1fr));gap:14px;margin-bottom:14px}
.card,section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px}
section{margin-top:14px}
.card{display:flex;flex-direction:column;min-width:0}
.card .what{color:var(--muted);font-size:13px;font-weight:600}
.card .big{font-size:34px;line-height:1.15;font-weight:700;letter-spacing:-.02em;margin:6px 0 4px;
font-variant-numeric:tabular-nums}
.card .big.words{font-size:22px;line-height:1.3}
.card .more{color:var(--muted);font-size:13.5px;font-variant-numeric:tabular-nums}
.good{color:var(--good)}.bad{color:var(--bad)}
.badge{display:inline-block;border-radius:99px;padding:1px 9px;font-size:12.5px;font-weight:600;background:var(--soft);
color:var(--muted)}
.badge.good{background:var(--good-soft);color:var(--good)}.badge.bad{background:var(--bad-soft);color:var(--bad)}
.note{background:var(--note);border:1px solid var(--line);border-radius:12px;padding:12px 20px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums;overflow-wrap:break-word}
th{text-align:left;font-weight:600;color:var(--muted);font-size:12.5px;white-space:nowrap}
th,td{padding:6px 16px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td data{white-space:nowrap}table.facts td data{white-space:normal}
table.facts td:first-child{color:var(--muted);width:1%;min-width:11em;padding-right:24px}
table.facts td:last-child{overflow-wrap:anywhere}
details{margin-top:10px}
summary{cursor:pointer;color:var(--muted);font-size:13.5px}
summary:hover{color:var(--ink)}
pre{margin:10px 0 0;padding:12px;background:var(--soft);border-radius:8px;overflow:auto;max-height:420px;font-size:12px;
line-height:1.4}
.legend{display:flex;flex-wrap:wrap;gap:6px 18px;margin:0 0 10px;font-size:13.5px}
.chip{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px;vertical-align:-1px}
.engine+.engine{border-top:1px solid var(--line);margin-top:20px;padding-top:18px}
.engine h3{font-size:15.5px;margin:0 0 10px;display:flex;flex-wrap:wrap;gap:8px;align-items:center}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(185px,1fr));gap:12px 20px;margin:0}
.pairs dt{color:var(--muted);font-size:12.5px}
.pairs dd{margin:0;font-variant-numeric:tabular-nums}
.bar{display:block;height:9px;border-radius:3px;min-width:2px}
table.layers td:last-child{width:30%;vertical-align:middle;padding-right:0}
.meter{display:flex;gap:2px;margin-top:10px}
.meter i{display:block;height:6px;border-radius:3px;min-width:2px}
.reason+.reason{border-top:1px solid var(--line);margin-top:12px;padding-top:12px}
.reason p{margin:0}
svg{display:block;width:100%;height:auto;min-width:640px}
svg text{fill:var(--ink);font-size:12.5px}
svg text.dim,svg tspan.dim{fill:var(--muted)}
svg text.strong{font-weight:700;font-size:15px}
svg .rule{stroke:var(--line);stroke-width:1;fill:none}
svg .link{stroke:var(--link);stroke-width:1.2;fill:none}
svg .before{fill:var(--before);stroke:var(--before)}
svg .after{fill:var(--c0);stroke:var(--c0)}
svg .mixed{fill:var(--card);stroke:var(--muted);stroke-width:1.6}
svg .hatch{stroke:var(--card);stroke-width:2.5;opacity:.55}
footer{margin-top:18px;color:var(--muted);font-size:13px}
@media (max-width:560px){main{padding:18px 12px 40px}.card,section{padding:14px}}
@media print{body{background:#fff}section,.card{break-inside:avoid}}
"""


def _places() -> str:
    places = [f"c{number}" for number in range(len(ENGINE_COLOURS))] + ["pytorch"]
    return "".join(
        f".{place}{{background:var(--{place})}}svg .{place}{{fill:var(--{place})}}svg tspan.{place}{{font-weight:600}}"
        for place in places
    )


STYLE = f":root{{{_LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}{_RULES}{_places()}".replace("\n", "")
