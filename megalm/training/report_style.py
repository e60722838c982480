"""The look of a report, light and dark by the reader's own setting; no fonts or files from elsewhere."""

STYLE = """
:root { color-scheme: light dark; --back: #fbfbfa; --card: #ffffff; --ink: #1d2329; --soft: #5a646e; --rule: #dfe3e6;
  --line-0: #2463c9; --line-1: #c2410c; --cell: #e8effb; --part-0: #2463c9; --part-1: #0f8a6d; --part-2: #b7791f;
  --part-3: #c2410c; --part-4: #7a4fc0; --part-5: #5f7fa8; --part-6: #7fa48f;
  --part-7: #c9ad7a; --part-8: #cf9a80; }
@media (prefers-color-scheme: dark) { :root { --back: #14181c; --card: #1c2228; --ink: #e6eaee; --soft: #a3adb7;
  --rule: #333c44; --line-0: #7db0ff; --line-1: #ffa05c; --cell: #24344d; --part-0: #7db0ff; --part-1: #4fd0ae;
  --part-2: #e8bf6a; --part-3: #ffa05c; --part-4: #bb9cf2; --part-5: #9db4d3; --part-6: #b3d0c0;
  --part-7: #8a7342; --part-8: #945c3c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 66rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; } h2 { margin: 2rem 0 .5rem; font-size: 1.2rem; }
h3 { margin: 0; font-size: 1rem; } p { margin: .4rem 0; } small { color: var(--soft); font-weight: normal; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tiles div, figure, details, .scroll { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tiles div { padding: .6rem .8rem; } .tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-size: .8rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem; }
.charts figure:first-child { grid-column: 1 / -1; }
figure { margin: 0; padding: .8rem; overflow-x: auto; } figure svg.wide { min-width: 40rem; }
 figure svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; } svg .strong { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); fill: none; }
.level { stroke: var(--soft); stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .line.line-0 { stroke: var(--line-0); }
.line.line-1 { stroke: var(--line-1); } .dot.line-0 { fill: var(--line-0); } .dot.line-1 { fill: var(--line-1); }
.band { fill: var(--ink); fill-opacity: 0; } .band:hover { fill-opacity: .1; }
.legend { margin: 0; color: var(--soft); font-size: .85rem; } .key { margin-right: 1.2rem; }
.key::before { content: ""; display: inline-block; width: 1.4em; margin-right: .4em;
  border-top: 3px solid; vertical-align: middle; }
.key.line-0::before { border-color: var(--line-0); } .key.line-1::before { border-color: var(--line-1); }
.part { stroke: var(--card); }
.part-0 { fill: var(--part-0); } .key.part-0::before { border-color: var(--part-0); }
.part-1 { fill: var(--part-1); } .key.part-1::before { border-color: var(--part-1); }
.part-2 { fill: var(--part-2); } .key.part-2::before { border-color: var(--part-2); }
.part-3 { fill: var(--part-3); } .key.part-3::before { border-color: var(--part-3); }
.part-4 { fill: var(--part-4); } .key.part-4::before { border-color: var(--part-4); }
.part-5 { fill: var(--part-5); } .key.part-5::before { border-color: var(--part-5); }
.part-6 { fill: var(--part-6); } .key.part-6::before { border-color: var(--part-6); }
.part-7 { fill: var(--part-7); } .key.part-7::before { border-color: var(--part-7); }
.part-8 { fill: var(--part-8); } .key.part-8::before { border-color: var(--part-8); }
.panel { fill: none; stroke: var(--rule); } .cell { fill: var(--cell); stroke: var(--line-0); }
.scroll { overflow-x: auto; margin: .5rem 0; } .picture { padding: .6rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid var(--rule); } th { color: var(--soft); }
tbody tr:last-child td { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
details { padding: .6rem .8rem; } summary { cursor: pointer; }
pre { margin: .6rem 0 0; overflow-x: auto; font-size: .85rem; }
"""
