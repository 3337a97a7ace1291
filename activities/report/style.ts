/** The page's whole style. Two palettes, chosen by the reader's system; print is always light. */
export const style = /* css */ `
:root {
  color-scheme: light dark;
  --ground: #fbfaf8; --card: #ffffff; --ink: #1d1b18; --quiet: #5f5a52; --line: #e3dfd8; --soft: #f3f0ea;
  --accent: #a63d1f; --accent-soft: #fbe9e2; --second: #3f6c8f; --good: #1f6b3a; --good-soft: #e4f3e8; --bad: #a3261f; --bad-soft: #fbe6e4; --mid: #7a5600; --mid-soft: #faf0d7;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #161513; --card: #1f1d1a; --ink: #ece8e1; --quiet: #a8a198; --line: #37332e; --soft: #292622;
    --accent: #f0916f; --accent-soft: #47281d; --second: #8bb8db; --good: #86cf9d; --good-soft: #1d3425; --bad: #f29d96; --bad-soft: #431f1c; --mid: #e3bf6b; --mid-soft: #3b3018;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header, footer { max-width: 1040px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 48px; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -0.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 56px 0 12px; letter-spacing: -0.01em; }
h3 { font-size: 1rem; margin: 0 0 12px; overflow-wrap: anywhere; }
p { margin: 0 0 12px; }
a { color: var(--accent); }
.eyebrow { color: var(--quiet); margin: 0 0 6px; font-size: .9rem; overflow-wrap: anywhere; }
.quiet { color: var(--quiet); font-size: .92rem; }
code, pre, .mono { font-family: var(--mono); font-size: .85em; }
.verdict { margin: 24px 0 20px; padding: 18px 22px; border-radius: 12px; border-left: 6px solid; font-size: 1.1rem; }
.verdict strong { display: block; font-size: .8rem; letter-spacing: .06em; text-transform: uppercase; margin-bottom: 2px; }
.verdict.helped { background: var(--good-soft); border-color: var(--good); } .verdict.helped strong { color: var(--good); }
.verdict.hurt { background: var(--bad-soft); border-color: var(--bad); } .verdict.hurt strong { color: var(--bad); }
.verdict.mixed, .verdict.none { background: var(--mid-soft); border-color: var(--mid); } .verdict.mixed strong, .verdict.none strong { color: var(--mid); }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 0 0 20px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.tile dt { color: var(--quiet); font-size: .85rem; }
.tile dd { margin: 2px 0 0; font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; letter-spacing: -0.02em; }
.tile dd + dd { font-size: .85rem; font-weight: 400; color: var(--quiet); letter-spacing: 0; margin-top: 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 10px 0; border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); font-size: .92rem; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px; margin: 0 0 16px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--quiet); font-size: .85rem; font-weight: 500; }
tbody th { font-weight: 500; }
td.number, th.number { text-align: right; white-space: nowrap; padding-left: 14px; }
th small { display: block; color: var(--quiet); font-weight: 400; max-width: 46ch; }
.badge { display: inline-block; padding: 1px 9px; border-radius: 99px; font-size: .82rem; white-space: nowrap; background: var(--soft); color: var(--quiet); }
.badge.better { background: var(--good-soft); color: var(--good); } .badge.worse { background: var(--bad-soft); color: var(--bad); }
dl.facts { display: grid; grid-template-columns: minmax(120px, max-content) 1fr; gap: 8px 24px; margin: 0; }
dl.facts dt { color: var(--quiet); } dl.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
figure { margin: 0; }
.chart svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--quiet); }
.chart .grid { stroke: var(--line); } .chart .axis, .chart .tick { stroke: var(--quiet); }
.chart polyline { fill: none; stroke-width: 2; stroke-linejoin: round; } polyline.train { stroke: var(--second); opacity: .75; } polyline.eval { stroke: var(--accent); stroke-width: 2.5; }
.chart circle.train { fill: var(--second); opacity: 0; } .chart circle.eval { fill: var(--accent); } .chart .hit { fill: transparent; }
.chart .dot:hover circle { opacity: 1; } .chart .bar { fill: var(--second); opacity: .8; } .chart g:hover .bar { opacity: 1; fill: var(--accent); }
figcaption { color: var(--quiet); font-size: .88rem; margin: 6px 0; }
.key { display: inline-block; margin-right: 18px; } .key::before { content: ""; display: inline-block; width: 18px; height: 3px; border-radius: 2px; margin-right: 7px; vertical-align: middle; background: var(--second); } .key.eval::before { background: var(--accent); }
.bars-pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 24px; margin-top: 20px; }
.answers { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; }
.answer { border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; background: var(--ground); }
.answer.tuned { border-color: var(--accent); background: var(--accent-soft); }
.answer h4 { margin: 0 0 6px; font-size: .82rem; font-weight: 600; color: var(--quiet); } .answer.tuned h4 { color: var(--accent); }
.answer:last-child:nth-child(odd) { grid-column: 1 / -1; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; } .answer .text { max-height: 22em; overflow-y: auto; }
.answer .quiet { margin: 8px 0 0; font-size: .82rem; }
.answer.tuned .quiet { color: inherit; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--quiet); font-size: .92rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); border-radius: 8px; padding: 12px 14px; margin: 8px 0 0; line-height: 1.5; }
pre.config { columns: 2 300px; column-gap: 32px; background: var(--card); }
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; font-family: var(--mono); font-size: .85rem; line-height: 1.9; margin: 0; }
.tokens span { border-radius: 3px; padding: 1px 0; color: var(--quiet); } .tokens .trained { background: var(--accent-soft); color: var(--ink); border-bottom: 2px solid var(--accent); }
.tokens span + .trained, .tokens .trained + .trained { border-left: 1px solid var(--card); }
.sample-key { background: var(--accent-soft); border-bottom: 2px solid var(--accent); padding: 1px 5px; }
.digest { overflow-wrap: anywhere; color: var(--quiet); min-width: 16ch; }
footer { color: var(--quiet); font-size: .9rem; padding-top: 24px; padding-bottom: 56px; }
@media (max-width: 720px) {
  main, header, footer { padding-left: 16px; padding-right: 16px; } header { padding-top: 28px; }
  h1 { font-size: 1.55rem; } .tiles { grid-template-columns: repeat(2, 1fr); } .answers { grid-template-columns: minmax(0, 1fr); }
  .figures thead { position: absolute; clip-path: inset(50%); } .figures tr { display: grid; grid-template-columns: repeat(3, auto) 1fr; gap: 0 18px; padding: 10px 0; border-bottom: 1px solid var(--line); }
  .figures tr:last-child { border-bottom: 0; } .figures th, .figures td { padding: 0; border: 0; text-align: left; } .figures th { grid-column: 1 / -1; margin-bottom: 6px; } .figures td:last-child { align-self: end; text-align: right; }
  .figures td[data-name]::before { content: attr(data-name); display: block; color: var(--quiet); font-size: .78rem; }
  .chart svg { font-size: 17px; } .chart.loss svg { font-size: 20px; } .chart .upright { display: none; }
  .card { padding: 16px; } dl.facts { grid-template-columns: 1fr; gap: 0; } dl.facts dd { margin-bottom: 10px; }
}
@media print {
  :root { --ground: #fff; --card: #fff; --ink: #000; --quiet: #444; --line: #ccc; --soft: #f4f4f4; --accent: #a63d1f; --accent-soft: #fbe9e2; --second: #3f6c8f; --good: #1f6b3a; --good-soft: #e4f3e8; --bad: #a3261f; --bad-soft: #fbe6e4; --mid: #7a5600; --mid-soft: #faf0d7; }
  body { font-size: 11pt; -webkit-print-color-adjust: exact; print-color-adjust: exact; } nav { display: none; } main, header, footer { max-width: none; padding: 0; }
  .card, .tile, .answer, figure, tr { break-inside: avoid; } .card.long { break-inside: auto; } h2 { break-after: avoid; margin-top: 28px; } .answer .text { max-height: none; }
}
`;
