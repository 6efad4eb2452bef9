"""The styles and the script of the page, which stands alone in its file."""

CSS = """
:root{color-scheme:light dark;--page:#fefefe;--ink:#1f2328;--soft:#5b636d;--line:#dfe3e8;--tint:#f3f5f8;--link:#0063a0}
@media (prefers-color-scheme:dark){:root{--page:#15181c;--ink:#e6e9ed;--soft:#a3acb7;--line:#343a42;--tint:#1f242a;
--link:#6cb8ec}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,
"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header,nav{max-width:1000px;margin:0 auto;padding:0 1.25rem}
header{padding-top:2rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{max-width:46rem;margin:.6rem 0}
a{color:var(--link)}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;padding:0;margin:.8rem 0 0;font-size:.92rem}
.soft,figcaption,caption,.missing{color:var(--soft);font-size:.92rem}
.missing{border-left:3px solid var(--line);padding-left:.8rem}
.lead{font-size:1.08rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.75rem;margin:1.1rem 0;padding:0}
.tiles div{background:var(--tint);border-radius:8px;padding:.65rem .9rem}
.tiles dt{font-size:.85rem;color:var(--soft)}
.tiles dd{margin:0;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums}
.tiles dd small{display:block;font-size:.8rem;font-weight:400;color:var(--soft)}
figure{margin:.8rem 0 1.2rem}
figcaption{max-width:46rem;margin-top:.35rem}
.wide{overflow-x:auto}
.wide svg{display:block;width:100%;min-width:540px;max-width:920px;height:auto}
img{max-width:100%;height:auto;display:block}
img.card{background:#fff;border-radius:6px}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;margin:.5rem 0 1rem}
caption{text-align:left;padding-bottom:.4rem;position:sticky;left:0;max-width:min(46rem,calc(100vw - 3rem))}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{white-space:normal;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;padding-left:.3rem}
thead th{border-bottom-width:2px;font-weight:600}
tbody th{font-weight:400;min-width:8rem}
tr.mark{background:var(--tint)}tr.mark th,tr.mark td{font-weight:600}
pre{background:var(--tint);border-radius:8px;padding:.9rem 1rem;overflow:auto;max-height:36rem;
font-size:.85rem;line-height:1.45}
code{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.92em}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--link)}
.reel label{display:flex;gap:.8rem;align-items:center;font-size:.92rem;color:var(--soft)}
.reel input{flex:0 1 22rem;accent-color:var(--link)}
footer{max-width:1000px;margin:3rem auto 2rem;padding:0 1.25rem}
@media print{nav,.reel label{display:none}}
"""

# Without the script every picture of a reel is shown; with it, one at a time under a slider.
SCRIPT = """
for (const reel of document.querySelectorAll('.reel')) {
  const figures = [...reel.querySelectorAll('figure')];
  if (figures.length < 2) continue;
  const label = document.createElement('label');
  const slider = document.createElement('input');
  const word = document.createElement('output');
  slider.type = 'range';
  slider.min = 0;
  slider.max = figures.length - 1;
  slider.value = slider.max;
  const show = () => {
    figures.forEach((figure, i) => { figure.hidden = i !== Number(slider.value); });
    word.textContent = figures[slider.value].dataset.name;
    slider.setAttribute('aria-valuetext', word.textContent);
  };
  slider.addEventListener('input', show);
  label.append('Validation', slider, word);
  reel.prepend(label);
  show();
}
document.documentElement.dataset.ready = 'yes';
"""
