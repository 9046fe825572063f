#include "evaluation/page_assets.h"

namespace thresher::evaluation {

const char* const kPageStyle = R"css(
:root{color-scheme:light dark;--paper:#fafaf8;--panel:#fff;--ink:#1c2329;--muted:#626d77;--line:#e1e4e6;
--strong:#b9c0c6;--best:#0a6b4f;--warn:#7a4b00;--warn-paper:#fff5dd;--warn-line:#ecd08b;
--c0:#0b6e99;--c1:#c4501b;--c2:#4b7a2b;--c3:#7a3e9d;--c4:#a87400;--c5:#c02d63;--c6:#3b63c4;--c7:#6d5138}
@media (prefers-color-scheme:dark){:root{--paper:#13171a;--panel:#1a1f23;--ink:#e3e7ea;--muted:#97a1aa;
--line:#2b3237;--strong:#4b555d;--best:#5fd1a8;--warn:#f3cf86;--warn-paper:#2b2413;--warn-line:#5c4a1d;
--c0:#4fb3df;--c1:#ee8555;--c2:#8fc46a;--c3:#c08fe2;--c4:#e2b64a;--c5:#f178a5;--c6:#8eaeff;--c7:#c6a88b}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:26px;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:18px;margin:40px 0 10px;padding-bottom:6px;border-bottom:1px solid var(--line)}
p{margin:8px 0;max-width:75ch;overflow-wrap:anywhere}
.subtitle,.note{color:var(--muted)}
.badge{display:inline-block;vertical-align:4px;margin-left:10px;padding:1px 9px;border:1px solid var(--strong);
border-radius:10px;font-size:12px;font-weight:500;line-height:1.5;color:var(--muted)}
.warning{margin:14px 0;padding:10px 14px;border:1px solid var(--warn-line);border-left-width:4px;
border-radius:4px;background:var(--warn-paper);color:var(--warn);max-width:none}
.scroll{overflow-x:auto;margin:12px 0;border:1px solid var(--line);border-radius:6px;background:var(--panel)}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:6px 11px;text-align:left;vertical-align:top}
td:first-child{white-space:nowrap;max-width:34em;overflow:hidden;text-overflow:ellipsis}
th{font-weight:600;font-size:12.5px;white-space:nowrap;vertical-align:bottom;border-bottom:1px solid var(--strong)}
th small{display:block;font-weight:400;color:var(--muted)}
td{border-top:1px solid var(--line)}
tbody tr:first-child td{border-top:0}
.n{text-align:right;white-space:nowrap}
.baseline td{color:var(--muted);border-top-color:transparent;padding-top:2px;padding-bottom:2px}
.baseline td:first-child{padding-left:26px}
.baseline:last-child td,.baseline+.normal td{padding-bottom:6px}
.group td{font-weight:600;background:var(--paper);font-size:13px}
.best{color:var(--best);font-weight:650}
.best::after{content:"\2009★";font-size:10px;vertical-align:2px}
td[title]{text-decoration:underline dotted var(--strong);text-underline-offset:3px}
dl{display:grid;grid-template-columns:minmax(130px,max-content) 1fr;gap:3px 20px;margin:10px 0;font-size:14px}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums;white-space:pre-wrap}
.folds{columns:340px;column-gap:16px;margin:12px 0}
details{break-inside:avoid;margin:0 0 10px;border:1px solid var(--line);border-radius:6px;background:var(--panel);padding:0 14px}
summary{cursor:pointer;padding:7px 0;font-weight:600;font-size:14px}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;margin:12px 0;padding:0;list-style:none;font-size:13.5px}
.legend svg{width:26px;height:10px;margin-right:7px;vertical-align:1px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:16px;margin:12px 0}
.chart{position:relative;margin:0;padding:12px 12px 6px;border:1px solid var(--line);border-radius:6px;
background:var(--panel)}
.wide{grid-column:1/-1;overflow-x:auto}
.wide svg{min-width:640px}
.chart .cell{font-size:11px;text-anchor:middle}
.chart .dark{fill:#10181f}.chart .light{fill:#fff}
.empty{fill:none;stroke:var(--line)}
figcaption{font-size:13.5px;margin:0 0 4px 4px;overflow-wrap:anywhere}
figcaption span{color:var(--muted)}
.chart svg{display:block;width:100%;height:auto;overflow:visible}
.chart text{font-size:12px;fill:var(--muted);font-variant-numeric:tabular-nums}
.chart .point{font-size:11.5px;fill:var(--ink)}
.end{text-anchor:end}.mid{text-anchor:middle}
.grid{stroke:var(--line)}.minor{stroke:var(--line);opacity:.5}.base{stroke:var(--strong)}
.series{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.dot{fill:var(--c);stroke:var(--panel);stroke-width:1}
.bar{fill:var(--c);opacity:.85}.silent{opacity:.4}
.outline{fill:none;stroke:var(--muted);stroke-width:1.2;stroke-dasharray:3 2}
.front{fill:none;stroke:var(--strong);stroke-width:1.2;stroke-dasharray:4 3}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}
.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}
.series.d1{stroke-dasharray:6 3}.series.d2{stroke-dasharray:1.5 3.5}
.rule{stroke:var(--strong)}
.readout{position:absolute;pointer-events:none;z-index:1;max-width:280px;padding:6px 9px;border:1px solid var(--strong);
border-radius:4px;background:var(--panel);font-size:12.5px;line-height:1.4;font-variant-numeric:tabular-nums;
box-shadow:0 2px 8px rgba(0,0,0,.12)}
.readout div{display:flex;justify-content:space-between;gap:14px}
.readout span{color:var(--c,var(--muted));overflow-wrap:anywhere}
footer{margin-top:48px;color:var(--muted);font-size:13px}
@media (max-width:560px){main{padding:20px 12px 48px}.chart text{font-size:15px}.chart .point{font-size:14px}
h1{font-size:22px}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:6px}}
@media print{.scroll{overflow:visible}.chart{break-inside:avoid}}
)css";

const char* const kPageScript = R"js(
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const place = (axis, value) => axis.log ? Math.log(value / axis.low) / Math.log(axis.high / axis.low)
                                        : (value - axis.low) / (axis.high - axis.low);
const number = value => Number(value.toPrecision(5)).toLocaleString("en-US", {maximumSignificantDigits: 5});
const element = (tag, classes, text) => {
  const made = document.createElement(tag);
  made.className = classes;
  made.textContent = text;
  return made;
};
const row = (name, value, classes) => {
  const made = element("div", classes, "");
  made.append(element("span", "", name), element("b", "", value));
  return made;
};
for (const chart of data) {
  const figure = document.querySelector(`figure[data-chart="${chart.number}"]`);
  const svg = figure.querySelector("svg");
  const [left, top, right, bottom] = chart.plot;
  const x = value => left + place(chart.x, value) * (right - left);
  const y = value => bottom - place(chart.y, value) * (bottom - top);
  const rule = document.createElementNS("http://www.w3.org/2000/svg", "line");
  rule.setAttribute("class", "rule");
  rule.setAttribute("y1", top);
  rule.setAttribute("y2", bottom);
  const box = element("div", "readout", "");
  const hide = () => { rule.remove(); box.remove(); };
  const nearest = (points, at) => points.reduce((best, point) =>
      best && Math.abs(x(best[0]) - at) <= Math.abs(x(point[0]) - at) ? best : point, null);
  figure.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", event => {
    const frame = svg.getBoundingClientRect();
    const scale = frame.width / chart.width;
    const at = (event.clientX - frame.left) / scale, height = (event.clientY - frame.top) / scale;
    if (at < left - 8 || at > right + 8) return hide();
    let shown = chart.series.map((series, index) => [series, nearest(series.points, at), index])
        .filter(entry => entry[1]);
    if (!shown.length) return;
    const away = point => chart.is_scatter ? Math.hypot(x(point[0]) - at, y(point[1]) - height)
                                           : Math.abs(x(point[0]) - at);
    const closest = shown.reduce((a, b) => away(a[1]) <= away(b[1]) ? a : b);
    if (chart.is_scatter) {
      if (away(closest[1]) > 24) return hide();
      shown = [closest];
    }
    shown = shown.filter(entry => Math.abs(x(entry[1][0]) - x(closest[1][0])) < 12).slice(0, 24);
    box.replaceChildren(row(chart.x.label, number(closest[1][0]), ""));
    for (const [series, point] of shown) {
      box.append(row(series.name, number(point[1]), "c" + series.index % 8));
    }
    const line = x(closest[1][0]);
    rule.setAttribute("x1", line);
    rule.setAttribute("x2", line);
    svg.append(rule);
    figure.append(box);
    const space = figure.clientWidth - box.offsetWidth - 4;
    const beside = (frame.left - figure.getBoundingClientRect().left) + line * scale + 12;
    box.style.left = Math.max(4, beside > space ? beside - box.offsetWidth - 24 : beside) + "px";
    box.style.top = "44px";
  });
}
)js";

}  // namespace thresher::evaluation
