"""The report's page: HTML, style and the few lines of script. `$$` is a dollar sign; the rest is filled in escaped."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --paper: #f7f8fa; --card: #ffffff; --ink: #1a1f29; --soft: #5b6473; --line: #e3e6ec;
  --good: #0a8f5f; --bad: #c2410c; --accent: #2563eb; --mark: #eef4ff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0f131a; --card: #171c25; --ink: #e8ebf1; --soft: #98a2b3; --line: #2a3140;
    --good: #34d399; --bad: #fb923c; --accent: #7aa8ff; --mark: #1b2740;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.02em;
  overflow-wrap: anywhere; }
header p { color: var(--soft); margin: 0 0 1.6rem; overflow-wrap: anywhere; }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
.card, .panel { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.15rem 1.3rem; }
.card { border-top: 3px solid var(--accent); }
.card.good { border-top-color: var(--good); }
.card.bad { border-top-color: var(--bad); }
.card h2 { font-size: .88rem; font-weight: 600; color: var(--soft); margin: 0; }
.card p { margin: .35rem 0 0; overflow-wrap: anywhere; }
.card .word { font-size: 1.6rem; font-weight: 700; letter-spacing: -.02em; margin: .1rem 0; line-height: 1.25; }
.card.good .word { color: var(--good); }
.card.bad .word { color: var(--bad); }
.panel { margin-top: 1.4rem; }
.panel h2 { font-size: 1.12rem; margin: 0 0 .7rem; }
.note { color: var(--soft); font-size: .9rem; margin: .5rem 0 0; }
#plot { width: 100%; min-height: 540px; }
.xtick text, .ytick text, .g-xtitle text, .g-ytitle text, .legendtext { fill: var(--soft) !important; }
#course { width: 100%; min-height: 300px; }
.columns { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
h3 { font-size: .95rem; margin: 1.1rem 0 .4rem; }
.scroll { overflow-x: auto; margin: 0 -1.3rem; padding: 0 1.3rem; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th { text-align: right; vertical-align: bottom; font-weight: 600; color: var(--soft); line-height: 1.3; }
th, td { padding: .5rem .4rem; border-bottom: 1px solid var(--line); }
td { text-align: right; white-space: nowrap; vertical-align: top; }
th:nth-child(2), td:nth-child(2), th:last-child, td:last-child { text-align: left; white-space: normal; }
td:nth-child(2), td:last-child { min-width: 10rem; }
tr.knee td { background: var(--mark); }
tr.near td, tr.reference td { color: var(--soft); }
tbody tr:last-child td { border-bottom: 0; }
ul { margin: 0; padding-left: 1.1rem; }
li { overflow-wrap: anywhere; }
small { color: var(--soft); }
dl { display: grid; grid-template-columns: minmax(7rem, 12rem) 1fr; gap: .45rem 1rem; margin: 0 0 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; font-size: .84rem; line-height: 1.5; margin: .6rem 0 0; }
@media (max-width: 640px) {
  main { padding: 1.3rem .8rem 3rem; }
  .card, .panel { padding: 1rem; border-radius: 12px; }
  .scroll { margin: 0 -1rem; padding: 0 1rem; }
  dl { grid-template-columns: 1fr; gap: .1rem; }
  dd { margin-bottom: .6rem; }
}
</style>
</head>
<body>
<main>
<header><h1>$name</h1><p>$subtitle</p></header>
<div class="cards">$cards</div>
<section class="panel">
  <h2>Size against quality</h2>
  <div id="plot"><noscript>The plot needs JavaScript; the table below says the same.</noscript></div>
  <p class="note">Further left is smaller, further up is better. Blue was chosen on validation; orange is what the same
  students score on test. The larger dot is the knee.</p>
</section>
<section class="panel"><h2>The front</h2><div class="scroll"><table>$table</table></div>$distinctions</section>
<section class="panel">
  <h2>How the search went</h2>
  <div id="course"></div>
  <p class="note">The volume that the front dominates, over what all trials had trained, on all lanes together.</p>
  $analysis
</section>
<section class="panel"><h2>What failed</h2>$failures</section>
<section class="panel"><h2>How it was made</h2>$made</section>
</main>
<script type="application/json" id="figures">$figures</script>
<script type="text/plain" id="library">$library</script>
<script>
(async () => {
  const plot = document.getElementById("plot");
  try {
    const packed = Uint8Array.from(atob(document.getElementById("library").textContent), c => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    const figures = JSON.parse(document.getElementById("figures").textContent);
    const narrow = matchMedia("(max-width: 640px)").matches;
    for (const [name, figure] of Object.entries(figures)) {
      if (narrow) {
        Object.assign(figure.layout.margin, {l: 44, r: 8}, name == "plot" ? {b: 130} : {});
        figure.layout.yaxis.title = {text: ""};
        figure.layout.font.size = 12;
      }
      await Plotly.newPlot(document.getElementById(name), figure.data, figure.layout,
        {responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover",
         modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]});
    }
  } catch (error) {
    plot.textContent = "The plot cannot be drawn by this browser (" + error + "); the table below says the same.";
  }
})();
</script>
</body>
</html>
"""
