#include "features/dashboard_assets.h"

namespace thresher::features {

const char* const kDashboardStyle = R"css(
:root{color-scheme:light dark;--paper:#f6f7f6;--panel:#fff;--ink:#1c2329;--muted:#5b6670;--line:#dfe3e5;--strong:#aeb7be;
--accent:#0b6e99;--accent-paper:#e4f1f7;--mark:11,110,153;--warm:#b3470f;--focus:#c4501b}
@media (prefers-color-scheme:dark){:root{--paper:#12161a;--panel:#1a1f24;--ink:#e4e8eb;--muted:#9aa5ae;--line:#2b3238;
--strong:#4d5862;--accent:#58b6df;--accent-paper:#173342;--mark:88,182,223;--warm:#f0935f;--focus:#f0935f}}
*{box-sizing:border-box}
html,body{height:100%}
body{margin:0;background:var(--paper);color:var(--ink);display:flex;flex-direction:column;
font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
:focus-visible{outline:2px solid var(--focus);outline-offset:1px}
button,input,select{font:inherit;color:inherit}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 16px;padding:10px 18px;border-bottom:1px solid var(--line);
background:var(--panel)}
h1{font-size:17px;margin:0;overflow-wrap:anywhere}
#facts{color:var(--muted);margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
#keys{margin-left:auto;color:var(--muted);font-size:12.5px}
kbd{font:inherit;font-size:11.5px;padding:0 5px;border:1px solid var(--strong);border-radius:4px;background:var(--paper)}
main{flex:1;min-height:0;display:grid;grid-template-columns:minmax(300px,400px) 1fr}
#side{display:flex;flex-direction:column;min-height:0;border-right:1px solid var(--line);background:var(--panel)}
#controls{padding:12px 14px 8px;display:grid;grid-template-columns:1fr auto;gap:8px}
#search{grid-column:1/3;width:100%;padding:7px 10px;border:1px solid var(--strong);border-radius:6px;background:var(--paper)}
#sort{padding:4px 6px;border:1px solid var(--line);border-radius:6px;background:var(--paper)}
#controls label{display:flex;align-items:center;gap:6px;color:var(--muted);font-size:13px}
#count{grid-column:1/3;margin:0;color:var(--muted);font-size:12.5px;min-height:18px}
#plot{display:block;width:100%;height:150px;cursor:crosshair;border-top:1px solid var(--line)}
#list{position:relative;flex:1;min-height:0;overflow-y:auto;border-top:1px solid var(--line);overscroll-behavior:contain}
#list:focus-visible{outline-offset:-2px}
#spacer{position:relative}
.row{position:absolute;left:0;right:0;height:52px;padding:6px 14px;border-bottom:1px solid var(--line);cursor:pointer;
display:grid;grid-template-columns:56px 1fr auto;column-gap:8px;align-items:center;overflow:hidden}
.row:hover{background:var(--paper)}
.row[aria-selected=true]{background:var(--accent-paper);box-shadow:inset 3px 0 var(--accent)}
.row b{font-variant-numeric:tabular-nums}
.row .what{min-width:0;overflow:hidden;white-space:nowrap;text-overflow:ellipsis}
.row .what small{display:block;overflow:hidden;text-overflow:ellipsis;color:var(--muted)}
.row .figures{text-align:right;color:var(--muted);font-size:12px;font-variant-numeric:tabular-nums;line-height:1.35}
.chip{display:inline-block;max-width:100%;padding:0 4px;margin-right:4px;border:1px solid var(--line);border-radius:4px;background:var(--paper);
font:12.5px/1.5 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;white-space:pre;overflow:hidden;text-overflow:ellipsis;
vertical-align:bottom;unicode-bidi:isolate}
#detail{min-width:0;overflow-y:auto;padding:18px 26px 60px}
#detail>*{max-width:1080px}
#detail h2{font-size:21px;margin:0 10px 0 0;font-variant-numeric:tabular-nums}
#detail h3{font-size:13px;letter-spacing:.03em;margin:26px 0 8px;padding-bottom:4px;border-bottom:1px solid var(--line);font-weight:650}
#detail h3 small{font-weight:400;color:var(--muted);letter-spacing:0}
.head{display:flex;align-items:center;gap:6px;flex-wrap:wrap}
.head button{border:1px solid var(--line);border-radius:6px;background:var(--panel);padding:3px 10px;cursor:pointer}
.head button:hover{border-color:var(--strong)}
.head .close{margin-left:auto}
.explained{font-size:16px;margin:10px 0 0;overflow-wrap:anywhere;unicode-bidi:isolate}
.explained small,.none{color:var(--muted)}
.stats{display:flex;flex-wrap:wrap;gap:6px 26px;margin:12px 0 0;font-variant-numeric:tabular-nums}
.stats div{display:flex;flex-direction:column}.stats small{color:var(--muted)}
.stats span{font-size:16px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr));gap:0 32px}
ol.bars{list-style:none;margin:0;padding:0}
ol.bars li{display:grid;grid-template-columns:minmax(0,1fr) 84px 92px;gap:8px;align-items:center;min-height:24px}
ol.bars bdi{overflow-wrap:anywhere}
ol.bars .chip{justify-self:start}
ol.bars .figure{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.bar{height:8px;border-radius:2px;background:var(--accent);justify-self:start;min-width:1px}
.bar.less{background:var(--warm)}
.link{border:0;background:none;padding:0;text-align:left;cursor:pointer;min-width:0;overflow:hidden;white-space:nowrap;text-overflow:ellipsis}
.link b{color:var(--accent);text-decoration:underline;text-underline-offset:2px;margin-right:7px;font-variant-numeric:tabular-nums}
svg{display:block;width:100%;max-width:640px;height:auto}
svg text{font-size:11px;fill:var(--muted);font-variant-numeric:tabular-nums}
svg rect{fill:var(--accent)}svg line{stroke:var(--strong)}
.examples{list-style:none;margin:0;padding:0;border:1px solid var(--line);border-radius:6px;background:var(--panel)}
.examples>li{display:grid;grid-template-columns:64px minmax(0,1fr);gap:4px 12px;padding:8px 12px;border-top:1px solid var(--line)}
.examples>li:first-child{border-top:0}
.examples .peak{text-align:right;font-variant-numeric:tabular-nums;color:var(--muted);padding-top:2px}
.text{font:13px/1.9 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate}
.text span{unicode-bidi:isolate;padding:1px 0}
.text .on{border-bottom:1px solid rgb(var(--mark));background:rgba(var(--mark),.10);cursor:help}
.text .l2{border-bottom-width:2px;background:rgba(var(--mark),.20)}
.text .l3{border-bottom-width:3px;background:rgba(var(--mark),.32)}
.text .l4{border-bottom-width:4px;background:rgba(var(--mark),.45);font-weight:700}
.text .at{outline:2px solid var(--focus);outline-offset:0}
.text .esc{opacity:.55}
.readout{grid-column:2;color:var(--muted);font-size:12.5px;min-height:0}
.legend{color:var(--muted);font-size:12.5px;margin:0 0 8px}
#tip{position:fixed;z-index:9;pointer-events:none;padding:2px 8px;border-radius:5px;background:var(--ink);color:var(--panel);
font-size:12.5px;font-variant-numeric:tabular-nums;max-width:340px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
[hidden]{display:none!important}
.hide{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
@media (max-width:820px){main{grid-template-columns:1fr}#side{border-right:0}body.open #side{display:none}body:not(.open) #detail{display:none}#keys{display:none}}
)css";

const char* const kDashboardBody = R"html(<header>
<h1 id="title"></h1><p id="facts"></p>
<p id="keys"><kbd>/</kbd> search <kbd>j</kbd> <kbd>k</kbd> move <kbd>Enter</kbd> open <kbd>Esc</kbd> close</p>
</header>
<main>
<section id="side" aria-label="Latents">
<div id="controls">
<input id="search" type="search" autocomplete="off" spellcheck="false" maxlength="1000" placeholder="Search tokens, contexts, explanations" aria-label="Search tokens, contexts, explanations and numbers">
<label>Sort <select id="sort"><option value="number">number</option><option value="density">density, highest first</option><option value="rare">density, lowest first</option><option value="maximum">maximum activation</option><option value="mean">mean activation</option><option value="match" hidden>best match</option></select></label>
<label><input id="alive" type="checkbox" checked> hide silent</label>
<p id="count" role="status" aria-live="polite"></p>
</div>
<canvas id="plot" role="img" aria-label="All latents: density against maximum activation. The list below holds the same latents."></canvas>
<div id="list" role="listbox" tabindex="0" aria-label="Latents; arrows move, Enter opens"><div id="spacer"></div></div>
</section>
<article id="detail" tabindex="-1" aria-label="The open latent"></article>
</main>
<div id="tip" hidden></div>
<noscript><p>This page needs its script, which is in the file; nothing is loaded from anywhere.</p></noscript>
)html";

}  // namespace thresher::features
