"""The look of the page, and the script of its slider. Nothing here is fetched from elsewhere."""

CSS = """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #202428; --soft: #667078; --line: #dfe2e0; --wash: #f2f3f0;
  --blue: #2a66a8; --orange: #b9571d; --green: #2f7d4f; --red: #c0392b; --cell: 42 102 168; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e3e6e8; --soft: #98a2aa; --line: #31373c;
  --wash: #1e2327; --blue: #7ab0ec; --orange: #eb9f64; --green: #79c795; --red: #f0857a; --cell: 90 150 220; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 64rem; padding: 2.5rem 1.5rem 5rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Liberation Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; font-weight: 650; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; font-weight: 650; margin: 2.75rem 0 .25rem; padding-top: 1.25rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; font-weight: 650; margin: 1.75rem 0 .35rem; }
p { margin: .35rem 0 .9rem; max-width: 44rem; }
.under, figcaption, .soft { color: var(--soft); }
.under { margin: .35rem 0 1.25rem; }
a { color: var(--blue); text-decoration-thickness: 1px; text-underline-offset: .18em; }
code { font: .9em ui-monospace, "DejaVu Sans Mono", monospace; background: var(--wash); padding: .1em .35em;
  border-radius: 3px; }
nav { margin: 1.5rem 0 0; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; }
.key { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1rem 1.5rem;
  margin: 1.75rem 0 0; }
.key div { border-top: 2px solid var(--ink); padding-top: .5rem; }
.key b { display: block; font-size: 1.9rem; line-height: 1.2; font-weight: 600; font-variant-numeric: tabular-nums; }
.key span { color: var(--soft); font-size: .875rem; display: block; line-height: 1.4; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .3rem 1.5rem; margin: .9rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .9rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: .28rem .9rem .28rem 0; text-align: right; vertical-align: baseline; }
th:last-child, td:last-child { padding-right: 0; }
th { font-weight: 400; color: var(--soft); }
thead th { border-bottom: 1px solid var(--ink); vertical-align: bottom; font-size: .875rem; white-space: nowrap; }
tbody th { color: var(--ink); }
th.name, td.name { text-align: left; }
tbody tr + tr th, tbody tr + tr td { border-top: 1px solid var(--line); }
td.none { color: var(--soft); }
.bar { width: 10rem; }
.bar i { display: block; height: .65rem; background: var(--orange); border-radius: 0 2px 2px 0; }
small { display: block; color: var(--soft); font-size: .875rem; line-height: 1.4; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)); gap: 1rem 3rem;
  align-items: start; }
figure { margin: .75rem 0 0; min-width: 0; }
figcaption { font-size: .9rem; line-height: 1.45; margin-top: .4rem; }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: .2rem 1.1rem; font-size: .9rem; min-height: 2rem; }
.legend i { display: inline-block; width: 1.5rem; border-top: 2.5px solid; margin-right: .4rem; vertical-align: .25em; }
.legend i.dashed { border-top-style: dashed; }
.legend i.box { width: .8rem; height: .8rem; border: 0; border-radius: 2px; vertical-align: -.05em; }
select { font: inherit; color: inherit; background: var(--wash); border: 1px solid var(--line); border-radius: 4px;
  padding: .1rem .3rem; max-width: 14rem; }
svg { display: block; width: 100%; height: auto; max-width: 36rem; }
svg text { fill: var(--soft); font-size: 12.5px; }
svg .axis { fill: var(--ink); }
svg .marked { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--line); stroke-width: 1; }
.mark { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 3; }
.line { fill: none; stroke-width: 2.25; stroke-linejoin: round; }
.blue { stroke: var(--blue); color: var(--blue); }
.orange { stroke: var(--orange); color: var(--orange); }
.green { stroke: var(--green); color: var(--green); }
svg .dashed { stroke-dasharray: 6 4; }
.class { display: none; }
input[type=range] { width: 100%; max-width: 22rem; accent-color: var(--ink); }
output { font-variant-numeric: tabular-nums; }
.confusion th, .confusion td { border: 0 !important; padding: .3rem .35rem; text-align: center; min-width: 2.25rem; }
.confusion tbody th { text-align: right; padding-left: 0; white-space: nowrap; }
.confusion td { background: rgb(var(--cell) / calc(var(--s) * .62)); border: 2px solid var(--paper) !important; }
.confusion td.none { background: var(--wash); }
.confusion td.zero { background: none; color: var(--soft); }
.confusion thead th { white-space: nowrap; border-bottom: 0; color: var(--ink); }
.confusion .tall { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; max-height: 11rem;
  margin: 0 auto; }
.confusion .extra { color: var(--soft); font-style: italic; }
article { margin: 2.25rem 0 0; scroll-margin-top: 1rem; }
article .pair { gap: .6rem 1rem; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
article img { display: block; width: 100%; height: auto; border-radius: 3px; }
article p { margin: 0 0 .5rem; }
article h3 { margin: 0; overflow-wrap: anywhere; }
details { margin: .9rem 0; }
summary { cursor: pointer; color: var(--blue); }
@media (max-width: 40rem) { body { padding: 1.25rem 1rem 3rem; } h2 { margin-top: 2.5rem; } .bar { width: 3.5rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } .key b { font-size: 1.6rem; }
  .key { grid-template-columns: 1fr 1fr; } th, td { padding-right: .5rem; }
  table { font-size: .875rem; } thead th { font-size: .8125rem; white-space: normal; } svg text { font-size: 14px; } }
@media print { body { max-width: none; } article { break-inside: avoid; } input { display: none; } }
"""

# Moves a line over the chart of scores and writes the three values there. The page says everything without it.
SCRIPT = """
(function () {
  var data = JSON.parse(document.getElementById("by-score").textContent);
  var figure = document.getElementById("scores"), slider = figure.querySelector("input");
  var line = figure.querySelector(".mark"), text = figure.querySelector(".marked");
  var out = figure.querySelector("output");
  if (!line) return;
  function show() {
    var i = +slider.value, x = data.left + (data.right - data.left) * i / (data.score.length - 1);
    line.setAttribute("x1", x); line.setAttribute("x2", x);
    text.setAttribute("x", x + (i > 50 ? -6 : 6)); text.setAttribute("text-anchor", i > 50 ? "end" : "start");
    text.textContent = data.score[i];
    out.textContent = "score " + data.score[i] + ": precision " + data.precision[i] + ", recall " + data.recall[i] +
      ", F1 " + data.f1[i];
  }
  slider.parentNode.hidden = false;
  slider.addEventListener("input", show);
  show();
})();
"""
