#include "features/dashboard_assets.h"

namespace thresher::features {

// Texts reach the page as text nodes and nothing else: what a token holds is never markup.
const char* const kDashboardScript = R"js('use strict';
(() => {
const $ = id => document.getElementById(id);
const read = id => JSON.parse($(id).textContent);
const index = read('index'), tokens = read('tokens'), contexts = read('contexts');
const count = index.density.length, ROW = 52;
const make = (tag, options, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options || {})) {
    if (name === 'text') element.textContent = value;
    else if (name === 'on') for (const [event, run] of Object.entries(value)) element.addEventListener(event, run);
    else if (name === 'class') element.className = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};
const digits = (value, n) => value === 0 ? '0' : Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3
  ? value.toExponential(1) : String(Number(value.toPrecision(n || 3)));
const percent = value => value === 0 ? 'never' : digits(100 * value, 2) + ' %';
const whole = value => value.toLocaleString('en');
const chunks = new Map();
const feature = i => {
  const number = Math.floor(i / index.chunk);
  if (!chunks.has(number)) {
    if (chunks.size > 64) chunks.delete(chunks.keys().next().value);
    chunks.set(number, read('c' + number));
  }
  return chunks.get(number)[i % index.chunk];
};

// The list: only the rows in sight exist.
let shown = [], selected = -1, opened = -1, rank = null;
const list = $('list'), spacer = $('spacer'), rows = new Map();
const chip = text => make('span', {class: 'chip', text});
const what = i => {
  const box = make('span', {class: 'what'});
  const explanation = index.explanations[i];
  if (explanation) box.append(make('bdi', {text: explanation}));
  const labels = make(explanation ? 'small' : 'span', {});
  for (const text of index.labels[i]) labels.append(chip(text));
  if (!index.labels[i].length) labels.append(make('span', {class: 'none', text: 'never fires'}));
  box.append(labels);
  return box;
};
const makeRow = (i, place) => {
  const row = make('div', {class: 'row', role: 'option', id: 'row-' + i, 'aria-selected': String(place === selected),
    'aria-posinset': place + 1, 'aria-setsize': shown.length,
    on: {click: () => { select(place); open(i); }}}, make('b', {text: i}), what(i),
    make('span', {class: 'figures'}, make('span', {text: percent(index.density[i])}), make('br'),
      make('span', {text: 'max ' + digits(index.maximum[i])})));
  row.style.top = place * ROW + 'px';
  return row;
};
const paint = () => {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const end = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
  for (const [place, row] of rows) if (place < first || place >= end) { row.remove(); rows.delete(place); }
  for (let place = first; place < end; ++place) {
    if (rows.has(place)) continue;
    const row = makeRow(shown[place], place);
    rows.set(place, row);
    spacer.append(row);
  }
};
const repaint = () => {
  for (const row of rows.values()) row.remove();
  rows.clear();
  spacer.style.height = shown.length * ROW + 'px';
  paint();
};
const select = place => {
  if (!shown.length) return;
  place = Math.max(0, Math.min(shown.length - 1, place));
  rows.get(selected)?.setAttribute('aria-selected', 'false');
  selected = place;
  const top = place * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  paint();
  rows.get(place)?.setAttribute('aria-selected', 'true');
  list.setAttribute('aria-activedescendant', 'row-' + shown[place]);
  plot();
};
const orders = {
  number: (a, b) => a - b,
  density: (a, b) => index.fired[b] - index.fired[a] || a - b,
  rare: (a, b) => index.fired[a] - index.fired[b] || a - b,
  maximum: (a, b) => index.maximum[b] - index.maximum[a] || a - b,
  mean: (a, b) => index.mean[b] - index.mean[a] || a - b,
  match: (a, b) => rank.get(b) - rank.get(a) || a - b,
};
const arrange = () => {
  const before = shown[selected];
  const all = rank ? [...rank.keys()] : Array.from({length: count}, (_, i) => i);
  shown = all.filter(i => !$('alive').checked || index.fired[i] > 0 || rank).sort(orders[$('sort').value]);
  selected = shown.indexOf(before);
  repaint();
  plot();
};

// Search: numbers, tokens and explanations at once, contexts and promoted tokens piece by piece.
let searching = 0;
const pieces = [];
const textOf = i => {
  const it = feature(i), parts = [];
  for (const [t] of it.p) parts.push(tokens[t]);
  parts.push('\n');
  for (const e of it.e) {
    const ids = contexts[e[2]];
    for (let k = e[5]; k < e[5] + e[6]; ++k) parts.push(tokens[ids[k]]);
    parts.push('\n');
  }
  return parts.join('').toLowerCase();
};
// As `thresher features search` does: a word counts where it begins.
const letter = /[\p{L}\p{N}]/u;
const begins = (text, word) => {
  if (!letter.test(word[0])) return text.includes(word);
  for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + 1)) {
    if (at === 0 || !letter.test(text[at - 1])) return true;
  }
  return false;
};
const score = (i, words, query) => {
  if (query === String(i)) return 100;
  const explained = (index.explanations[i] || '').toLowerCase();
  if (explained && words.every(word => begins(explained, word))) return 50;
  const labels = index.labels[i].map(text => text.toLowerCase());
  let best = 0;
  if (words.every(word => labels.some(text => text.includes(word)))) {
    labels.forEach((text, place) => {
      const trimmed = text.trim();
      if (words.includes(trimmed)) best = Math.max(best, 40 - place);
      else if (words.some(word => trimmed.startsWith(word))) best = Math.max(best, 30 - place);
      else if (words.some(word => text.includes(word))) best = Math.max(best, 20 - place);
    });
  }
  return best;
};
const search = () => {
  const query = $('search').value.trim().toLowerCase(), mine = ++searching;
  const match = $('sort').querySelector('[value=match]');
  match.hidden = !query;
  if (!query) {
    rank = null;
    if ($('sort').value === 'match') $('sort').value = 'number';
    arrange();
    $('count').textContent = say(shown.length);
    return;
  }
  const words = query.split(/\s+/);
  rank = new Map();
  for (let i = 0; i < count; ++i) {
    const found = score(i, words, query);
    if (found) rank.set(i, found);
  }
  $('sort').value = 'match';
  selected = -1;
  arrange();
  list.scrollTop = 0;
  let next = 0;
  const go = () => {
    if (mine !== searching) return;
    const until = performance.now() + 30, size = rank.size;
    for (; next < count && performance.now() < until; ++next) {
      if (rank.has(next)) continue;
      if (pieces[next] === undefined) pieces[next] = textOf(next);
      if (words.every(word => begins(pieces[next], word))) rank.set(next, 1);
    }
    if (rank.size !== size) arrange();
    $('count').textContent = say(rank.size) + (next < count ? ` · contexts ${Math.floor(100 * next / count)} %` : '');
    if (next < count) setTimeout(go);
    else document.body.dataset.searched = query;
  };
  delete document.body.dataset.searched;
  go();
};
const say = n => n === count ? whole(n) + ' latents' : whole(n) + ' of ' + whole(count) + ' latents';

// The plot of all latents.
const canvas = $('plot'), places = [];
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const plot = () => {
  const width = canvas.clientWidth, height = canvas.clientHeight, scale = devicePixelRatio || 1;
  if (!width) return;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const draw = canvas.getContext('2d');
  draw.scale(scale, scale);
  const alive = index.fired.map((n, i) => n ? i : -1).filter(i => i >= 0);
  places.length = 0;
  if (!alive.length) return;
  let low = 0, high = -9, bottom = 99, top = -99;
  for (const i of alive) {
    const x = Math.log10(Math.max(index.density[i], 1e-9)), y = Math.log10(Math.max(index.maximum[i], 1e-9));
    low = Math.min(low, x); high = Math.max(high, x); bottom = Math.min(bottom, y); top = Math.max(top, y);
  }
  const at = (v, from, to, a, b) => to > from ? a + (v - from) / (to - from) * (b - a) : (a + b) / 2;
  draw.font = '11px system-ui,sans-serif';
  draw.fillStyle = draw.strokeStyle = colour('--muted');
  draw.textAlign = 'center';
  for (let e = Math.ceil(low); e <= Math.floor(high); ++e) {
    const x = at(e, low, high, 30, width - 14);
    draw.fillText(digits(100 * 10 ** e, 1) + ' %', Math.max(26, Math.min(width - 26, x)), height - 5);
    draw.globalAlpha = .25; draw.fillRect(x, 8, 1, height - 28); draw.globalAlpha = 1;
  }
  draw.textAlign = 'left';
  draw.fillText('max ' + digits(10 ** top, 2), 6, 13);
  draw.textAlign = 'right';
  draw.fillText('density →', width - 6, 13);
  const chosen = new Set(rank ? shown : []), mark = shown[selected];
  draw.fillStyle = colour('--accent');
  for (const i of alive) {
    const x = at(Math.log10(Math.max(index.density[i], 1e-9)), low, high, 30, width - 14);
    const y = at(Math.log10(Math.max(index.maximum[i], 1e-9)), bottom, top, height - 24, 20);
    places.push([x, y, i]);
    draw.globalAlpha = rank ? chosen.has(i) ? .9 : .08 : .35;
    draw.fillRect(x - 1.2, y - 1.2, 2.4, 2.4);
  }
  draw.globalAlpha = 1;
  draw.strokeStyle = colour('--focus');
  draw.lineWidth = 2;
  for (const [x, y, i] of places) {
    if (i === mark || i === opened) { draw.beginPath(); draw.arc(x, y, i === opened ? 6 : 4, 0, 7); draw.stroke(); }
  }
};
const nearest = event => {
  const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = 400;
  for (const [a, b, i] of places) {
    const d = (a - x) ** 2 + (b - y) ** 2;
    if (d < least) { least = d; best = i; }
  }
  return best;
};
canvas.addEventListener('click', event => { const i = nearest(event); if (i >= 0) go(i); });
canvas.addEventListener('mousemove', event => {
  const i = nearest(event);
  if (i < 0) return untip();
  tip(`${i}: fires on ${percent(index.density[i])}, max ${digits(index.maximum[i])}  ${index.labels[i].join(' ')}`, event.clientX + 12, event.clientY + 12);
});
canvas.addEventListener('mouseleave', () => untip());

// One latent.
const tip = (text, x, y) => {
  const box = $('tip');
  box.textContent = text;
  box.hidden = false;
  box.style.left = Math.max(4, Math.min(x, innerWidth - box.offsetWidth - 8)) + 'px';
  box.style.top = Math.max(4, Math.min(y, innerHeight - box.offsetHeight - 8)) + 'px';
};
const untip = () => { $('tip').hidden = true; };
const link = i => {
  const button = make('button', {class: 'link', type: 'button', on: {click: () => go(i)}}, make('b', {text: i}));
  if (index.explanations[i]) button.append(make('bdi', {text: index.explanations[i]}));
  else for (const text of index.labels[i].slice(0, 3)) button.append(chip(text));
  return button;
};
const bars = (items, name, figure, most = Math.max(...items.map(item => Math.abs(item[1])), 1e-9)) => {
  return make('ol', {class: 'bars', 'aria-label': name}, ...items.map(item => {
    const bar = make('span', {class: item[1] < 0 ? 'bar less' : 'bar', 'aria-hidden': 'true'});
    bar.style.width = 100 * Math.abs(item[1]) / most + '%';
    return make('li', {}, item[0], bar, make('span', {class: 'figure', text: figure(item)}));
  }));
};
const block = (title, note, ...content) => make('section', {}, make('h3', {text: title + ' '}, make('small', {text: note || ''})), ...content);
const histogram = bins => {
  const NS = 'http://www.w3.org/2000/svg', svg = document.createElementNS(NS, 'svg');
  const put = (tag, attributes, text) => {
    const element = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    svg.append(element);
    return element;
  };
  const edge = bin => 2 ** (bin / 4 - 12), first = bins[0][0], last = bins[bins.length - 1][0];
  const most = Math.max(...bins.map(bin => bin[1])), step = Math.min(48, 600 / (last - first + 1));
  svg.setAttribute('viewBox', '0 0 640 132');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', `Histogram of activations from ${digits(edge(first))} to ${digits(edge(last + 1))}, at most ${whole(most)} tokens a bin`);
  for (const [bin, n] of bins) {
    const height = Math.max(1, 96 * n / most);
    const rect = put('rect', {x: 20 + (bin - first) * step, y: 108 - height, width: Math.max(1, step - 1.5), height});
    const title = document.createElementNS(NS, 'title');
    title.textContent = `${digits(edge(bin))} to ${digits(edge(bin + 1))}: ${whole(n)} tokens`;
    rect.append(title);
  }
  put('line', {x1: 20, x2: 20 + (last - first + 1) * step, y1: 108.5, y2: 108.5});
  const every = Math.max(1, Math.ceil(46 / step));
  for (let bin = first; bin <= last + 1; bin += every) {
    put('text', {x: 20 + (bin - first) * step, y: 124, 'text-anchor': 'middle'}, digits(edge(bin), 2));
  }
  put('text', {x: 20, y: 9}, `${whole(most)} tokens`);
  return svg;
};
const example = (e, strongest) => {
  const [, peak, place, number, position, start, n, active] = e;
  const ids = contexts[place], values = new Map(active), readout = make('div', {class: 'readout', 'aria-live': 'polite'});
  const text = make('div', {class: 'text', dir: 'ltr'}), spots = [];
  for (let k = 0; k < n; ++k) {
    const value = values.get(k) || 0, word = tokens[ids[start + k]];
    const span = make('span', {text: word});
    if (/^(\\n|\\t|\\r| )*\\[nrt]/.test(word)) span.classList.add('esc');
    if (value > 0) {
      span.classList.add('on', 'l' + Math.max(1, Math.ceil(4 * value / Math.max(strongest, 1e-9))));
      span.dataset.value = value;
      span.addEventListener('mouseenter', event => tip(digits(value, 4), event.clientX + 10, event.clientY - 32));
      span.addEventListener('mouseleave', untip);
      spots.push([span, value, word]);
    }
    text.append(span);
  }
  let at = -1;
  const show = to => {
    if (!spots.length) return;
    if (at >= 0) spots[at][0].classList.remove('at');
    at = Math.max(0, Math.min(spots.length - 1, to));
    spots[at][0].classList.add('at');
    readout.replaceChildren(make('span', {class: 'chip', text: spots[at][2]}), digits(spots[at][1], 4) + ` (${at + 1} of ${spots.length})`);
  };
  return make('li', {tabindex: 0, 'aria-label': `activation ${digits(peak)} in context ${number}, position ${position}; left and right read the tokens`,
    on: {keydown: event => {
      if (event.key === 'ArrowRight' || event.key === 'ArrowLeft') {
        event.preventDefault();
        event.stopPropagation();
        show(event.key === 'ArrowRight' ? at + 1 : at < 0 ? spots.length - 1 : at - 1);
      }
    }, blur: () => { if (at >= 0) spots[at][0].classList.remove('at'); at = -1; readout.replaceChildren(); }}},
  make('span', {class: 'peak', text: digits(peak), title: `context ${number}, position ${position}`}), text, readout);
};
const examples = (all, strongest) => make('ul', {class: 'examples'}, ...all.map(e => example(e, strongest)));
const token = t => chip(tokens[t]);
const open = i => {
  opened = i;
  const it = feature(i), box = $('detail');
  document.body.classList.add('open');
  untip();
  const stat = (name, value) => make('div', {}, make('small', {text: name}), make('span', {text: value}));
  const parts = [make('div', {class: 'head'}, make('h2', {text: 'Latent ' + i}),
    make('button', {type: 'button', text: '←', 'aria-label': 'previous in the list', on: {click: () => step(-1)}}),
    make('button', {type: 'button', text: '→', 'aria-label': 'next in the list', on: {click: () => step(1)}}),
    make('button', {type: 'button', class: 'close', text: 'Close', on: {click: close}}))];
  for (const [text, method, model] of it.x) {
    parts.push(make('p', {class: 'explained'}, make('bdi', {text}), make('small', {text: `  ${method}, ${model}`})));
  }
  parts.push(make('div', {class: 'stats'}, stat('fires on', percent(index.density[i])), stat('tokens', whole(index.fired[i])),
    stat('mean activation', digits(index.mean[i], 4)), stat('maximum', digits(index.maximum[i], 4))));
  const top = it.e.filter(e => e[0] < 0);
  if (top.length) {
    parts.push(block('Strongest contexts', 'one window a context; under a token: how strongly it fires (thicker: stronger)', examples(top, index.maximum[i])));
  }
  if (it.h.length) parts.push(block('Activations', 'tokens by activation, four bins to a doubling', histogram(it.h)));
  if (it.p.length) {
    parts.push(make('div', {class: 'pair'},
      block('Promotes', 'logit a unit of activation', bars(it.p.map(([t, v]) => [token(t), v]), 'promoted tokens', item => '+' + digits(item[1]))),
      block('Suppresses', '', bars(it.s.map(([t, v]) => [token(t), v]), 'suppressed tokens', item => digits(item[1])))));
  }
  parts.push(make('div', {class: 'pair'},
    block('Nearest directions', 'cosine of the decoder', bars(it.n.map(([o, v]) => [link(o), v]), 'nearest latents', item => digits(item[1]))),
    block('Fires together with', 'Jaccard index of tokens · tokens', bars(it.c.map(([o, n, j]) => [link(o), j, n]), 'co-firing latents', item => digits(item[1], 2) + ' · ' + whole(item[2])))));
  if (it.r.length) {
    parts.push(block('Found again', 'cosine with the nearest decoder direction of another run',
      bars(it.r.map(([run, latent, v]) => [make('bdi', {text: run + ', latent ' + latent}), v]), 'other runs', item => digits(item[1]), 1)));
  }
  const groups = [...new Set(it.e.filter(e => e[0] >= 0).map(e => e[0]))];
  for (const group of groups) {
    parts.push(block('Drawn at random, group ' + group, group === groups[0] ? 'the strongest part of a uniform sample of its contexts' : '',
      examples(it.e.filter(e => e[0] === group), index.maximum[i])));
  }
  if (!index.fired[i]) parts.push(make('p', {class: 'none', text: 'It fires on no token of the text.'}));
  box.replaceChildren(...parts);
  box.scrollTop = 0;
  if (location.hash !== '#' + i) history.replaceState(null, '', '#' + i);
  plot();
};
const go = i => {
  const place = shown.indexOf(i);
  if (place >= 0) select(place); else { rows.get(selected)?.setAttribute('aria-selected', 'false'); selected = -1; }
  open(i);
};
const step = by => { select(selected + by); if (shown.length) open(shown[selected]); };
const close = () => {
  opened = -1;
  document.body.classList.remove('open');
  welcome();
  history.replaceState(null, '', '#');
  list.focus();
  plot();
};
const welcome = () => $('detail').replaceChildren(make('p', {class: 'none', text: 'Choose a latent in the list or in the plot.'}));

document.addEventListener('keydown', event => {
  const field = event.target.matches('input,select,textarea');
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Escape') {
    if (event.target === $('search') && $('search').value) { $('search').value = ''; search(); }
    else if (field) list.focus();
    else close();
    event.preventDefault();
    return;
  }
  if (event.target === $('search') && (event.key === 'ArrowDown' || event.key === 'Enter')) {
    list.focus();
    select(Math.max(0, selected));
    if (event.key === 'Enter' && shown.length) open(shown[selected]);
    event.preventDefault();
    return;
  }
  if (field) return;
  const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1), inside = $('detail').contains(event.target);
  const moves = {j: 1, k: -1};
  if (!inside) Object.assign(moves, {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity});
  if (event.key === '/') { $('search').focus(); $('search').select(); }
  else if (event.key in moves) { const by = moves[event.key]; select(by === -Infinity ? 0 : by === Infinity ? shown.length - 1 : selected + by); }
  else if (event.key === 'Enter' && (event.target === list || event.target === document.body) && selected >= 0) { open(shown[selected]); $('detail').focus(); }
  else return;
  event.preventDefault();
});
let wait = 0;
$('search').addEventListener('input', () => { clearTimeout(wait); wait = setTimeout(search, 120); });
$('sort').addEventListener('change', () => { arrange(); list.scrollTop = 0; paint(); });
$('alive').addEventListener('change', () => { arrange(); $('count').textContent = say(shown.length); });
list.addEventListener('scroll', paint);
addEventListener('resize', () => { paint(); plot(); });
matchMedia('(prefers-color-scheme:dark)').addEventListener('change', plot);
const fromHash = () => { const i = Number(location.hash.slice(1)); if (location.hash.length > 1 && Number.isInteger(i) && i >= 0 && i < count) go(i); };
addEventListener('hashchange', fromHash);

const facts = index.facts;
$('title').textContent = facts.sae || 'Latents';
$('facts').textContent = [facts.hook_point, facts.architecture, whole(count) + ' latents',
  whole(index.fired.filter(n => !n).length) + ' silent', whole(facts.n_tokens || 0) + ' tokens of text'].filter(Boolean).join(' · ');
welcome();
arrange();
$('count').textContent = say(shown.length);
fromHash();
document.body.dataset.ready = 'yes';
})();
)js";

}  // namespace thresher::features
