#include "features/steer_page.h"

#include <fmt/format.h>

#include "core/json.h"
#include "evaluation/html.h"
#include "evaluation/page_assets.h"

namespace thresher::features {
namespace {

constexpr const char* kStyle = R"(
form,.found,.chosen{max-width:860px}
textarea,input{font:inherit;color:inherit;background:var(--panel);border:1px solid var(--strong);border-radius:4px;padding:6px 8px}
textarea{width:100%;box-sizing:border-box;min-height:64px}
label{display:block;margin:12px 0 4px;font-weight:600}
.settings{display:flex;flex-wrap:wrap;gap:16px}.settings input{width:7em}
button{font:inherit;padding:6px 14px;border:1px solid var(--strong);border-radius:4px;background:var(--panel);color:inherit;cursor:pointer}
button.main{background:var(--c0);border-color:var(--c0);color:var(--panel);font-weight:600;margin-top:14px}
button:disabled{opacity:.5;cursor:default}
:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
.found,.chosen{list-style:none;padding:0;margin:8px 0}
.found li,.chosen li{display:flex;gap:10px;align-items:baseline;padding:4px 0;border-top:1px solid var(--line)}
.found bdi,.chosen bdi{flex:1;overflow-wrap:anywhere}
.texts{display:grid;grid-template-columns:1fr 1fr;gap:16px;margin-top:18px}
@media (max-width:700px){.texts{grid-template-columns:1fr}}
.texts section{border:1px solid var(--line);border-radius:6px;background:var(--panel);padding:4px 14px 12px;min-height:90px}
.texts pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:0;unicode-bidi:isolate}
.texts .prompt{color:var(--muted)}
.found{max-height:290px;overflow-y:auto}.texts h2{margin:10px 0}
#status{min-height:1.5em;color:var(--muted)}
)";

// Texts of the model and of the store are put in by textContent alone.
constexpr const char* kScript = R"('use strict';
const names = JSON.parse(document.getElementById('names').textContent);
const at = id => document.getElementById(id);
const chosen = new Map();
const make = (tag, text) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; return e; };
const say = text => { at('status').textContent = text; };
async function ask(path, body) {
  const reply = await fetch(path, {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)});
  const json = await reply.json();
  if (!reply.ok) throw new Error(json.error);
  return json;
}
function describe(one) {
  return one.description || (one.tokens || []).slice(0, 6).join('  ') || 'no text known';
}
function showChosen() {
  at('chosen').replaceChildren(...[...chosen.values()].map(one => {
    const line = make('li'), strength = make('input'), away = make('button', 'remove');
    strength.type = 'number'; strength.step = 'any'; strength.value = one.strength;
    strength.setAttribute('aria-label', 'strength of latent ' + one.index);
    strength.addEventListener('input', () => { one.strength = Number(strength.value); });
    away.type = 'button'; away.setAttribute('aria-label', 'remove latent ' + one.index);
    away.addEventListener('click', () => { chosen.delete(one.index); showChosen(); });
    line.append(make('strong', one.index), make('bdi', describe(one)), strength, away);
    return line;
  }));
}
function choose(one) {
  if (!chosen.has(one.index)) chosen.set(one.index, {...one, strength: Math.round(one.maxActApprox || 10)});
  showChosen();
}
async function search() {
  const query = at('query').value.trim();
  if (!query) return;
  try {
    if (/^\d+$/.test(query)) {
      const reply = await fetch('/api/feature/' + encodeURIComponent(names.model) + '/' + encodeURIComponent(names.layer) + '/' + query);
      const one = await reply.json();
      if (!reply.ok) throw new Error(one.error);
      choose({index: one.index, maxActApprox: one.maxActApprox, description: (one.explanations[0] || {}).description, tokens: one.pos_str});
      return;
    }
    const found = (await ask('/api/explanation/search', {query: query})).results;
    at('found').replaceChildren(...found.map(one => {
      const line = make('li'), add = make('button', 'add');
      add.type = 'button'; add.setAttribute('aria-label', 'add latent ' + one.index);
      add.addEventListener('click', () => choose(one));
      line.append(make('strong', one.index), make('bdi', describe(one)), add);
      return line;
    }));
    say(found.length ? '' : 'no latent found');
  } catch (error) { say(error.message); }
}
function show(id, prompt, text) {
  const begin = make('span', prompt); begin.className = 'prompt';
  at(id).replaceChildren(begin, document.createTextNode(text));
}
at('query').addEventListener('keydown', event => { if (event.key === 'Enter') { event.preventDefault(); search(); } });
at('search').addEventListener('click', search);
at('form').addEventListener('submit', async event => {
  event.preventDefault();
  const prompt = at('prompt').value;
  at('go').disabled = true; say('the model is writing ...');
  try {
    const answer = await ask('/api/steer', {prompt: prompt, n_tokens: Number(at('tokens').value), temperature: Number(at('temperature').value),
      seed: Number(at('seed').value), features: [...chosen.values()].map(one => ({index: Number(one.index), strength: one.strength}))});
    show('plain', prompt, answer.DEFAULT); show('steered', prompt, answer.STEERED); say('');
  } catch (error) { say(error.message); }
  at('go').disabled = false;
});
const first = new URLSearchParams(location.search).get('latent');
if (/^\d+$/.test(first || '')) { at('query').value = first; search(); }
)";

constexpr const char* kBody = R"(<h1>Steer</h1>
<p class="subtitle"><a href="/">all latents</a></p>
<form id="form">
<label for="query">Latents, by words or number</label>
<input id="query" autocomplete="off" size="40"> <button type="button" id="search">search</button>
<ul class="found" id="found" aria-label="latents found"></ul>
<ul class="chosen" id="chosen" aria-label="latents added to the model"></ul>
<label for="prompt">Prompt</label>
<textarea id="prompt" required maxlength="16000">I hate you because</textarea>
<div class="settings"><div><label for="tokens">New tokens</label><input id="tokens" type="number" min="1" max="256" value="40"></div>
<div><label for="temperature">Temperature</label><input id="temperature" type="number" min="0" max="100" step="any" value="0"></div>
<div><label for="seed">Seed</label><input id="seed" type="number" value="0"></div></div>
<button class="main" id="go">Write both texts</button>
</form>
<p id="status" role="status"></p>
<div class="texts"><section><h2>As it is</h2><pre id="plain"></pre></section>
<section><h2>Steered</h2><pre id="steered"></pre></section></div>
)";

}  // namespace

SteerPage make_steer_page(const NeuronpediaNames& names, bool has_model) {
  const std::string style = std::string(evaluation::kPageStyle) + kStyle;
  SteerPage page;
  page.policy = fmt::format(
      "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; base-uri 'none'; "
      "form-action 'none'; frame-ancestors 'none'",
      evaluation::csp_hash(kScript), evaluation::csp_hash(style));
  page.html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>Steer {}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
      evaluation::html_text(names.model), style);
  page.html += kBody;
  if (!has_model) {
    page.html +=
        "<p class=\"warning\">The server was started without the host model: latents can be found "
        "here, not used.</p>\n";
  }
  const Json json = Json::object({{"model", names.model}, {"layer", names.layer}});
  page.html += fmt::format(
      "</main>\n<script type=\"application/json\" id=\"names\">{}</script>\n<script>{}</script>\n"
      "</body>\n</html>\n",
      evaluation::html_json(json), kScript);
  return page;
}

}  // namespace thresher::features
