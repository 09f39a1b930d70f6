// The picture with its visual tokens. Everything shown on hover, scrub or switch is already in the browser: no request.
// All text goes through textContent; nothing that a person or a model wrote is ever read as markup.

const { make, on, emit, define, explain, phrase, drawing: d } = window.prunescope;
const $ = (s) => element.querySelector(s);
const canvas = $('.pc-canvas'), ink = canvas.getContext('2d'), card = $('.pc-card'), live = $('.pc-live'), dropHint = $('.pc-drop');
const HEIGHT_SHARE = 0.5;
const FATES = { [d.GONE]: 'gone', [d.DROPPED]: 'dropped', [d.MERGED]: 'merged', [d.KEPT]: 'kept' };
const STILL = window.matchMedia('(prefers-reduced-motion: reduce)');
const state = { view: null, photos: [], picture: 0, stops: [], boxes: [], stop: 0, mode: 'kept', options: { region: true, grid: false, model: false, overview: false, second: false, opacity: 72 }, at: -1, pinned: false, word: null, timer: null };

// ---- a run ---------------------------------------------------------------------------------------------------------

function open(view) {
  const about = (v) => [...v.pictures, ...v.layout.names].join(), same = state.view && about(state.view) === about(view);
  state.view = view;
  face(same ? state.picture : 0);
  state.stops = d.stopsOf(view);
  state.attention = d.attentionOf(view);
  state.nearest = view.nearest ? { token: window.prunescope.bytes(view.nearest.token, Int32Array), cosine: window.prunescope.bytes(view.nearest.cosine, Float32Array) } : null;
  state.region = new Set(view.answer_region || []);
  cells();
  state.stop = state.stops.length - 1;
  state.pinned = false;
  state.word = null;
  hide();
  heading();
  if (!same) {
    state.photos = view.pictures.map((url) => { const photo = new Image(); photo.onload = () => draw(); photo.src = url; return photo; });
    strip();
  }
  stageBar();
  reasoned();
  $('.pc-table').open = false;
  if (same) draw();
}

// One picture of the prompt at a time. A model that encodes a picture twice has visual tokens that cover each other: one
// view at a time, the finest one first.
const pictureOf = (tile) => state.view.layout.tiles[tile].picture;
const views = () => state.view.layout.views.filter((v) => pictureOf(v[0]) === state.picture);
const shown = () => views()[state.options.overview ? 1 : 0] || [];
function lay() { state.boxes = d.boxesOf(state.view.layout, shown()); }

// A temporal step of a video holds two frames; they are drawn one at a time too, the earlier one first.
const frames = () => state.view.layout.frames[state.picture];
const photo = () => state.photos[frames()[state.options.second ? frames().length - 1 : 0]];

function face(picture, overview = state.options.overview) {
  state.picture = picture;
  $('.pc-second').hidden = frames().length < 2;
  $('.pc-overview').hidden = views().length < 2;
  state.options.overview = $('[data-option="overview"]').checked = overview && views().length > 1;
  lay();
}

function reveal(token) {
  const { tile } = state.boxes[token];
  if (shown().includes(tile)) return;
  face(pictureOf(tile), !state.view.layout.views.find((v) => pictureOf(v[0]) === pictureOf(tile)).includes(tile));
  counts();
}

function strip() {
  const box = $('.pc-pictures'), several = state.photos.length > 1, { layout, pictures } = state.view;
  box.hidden = !several;
  box.replaceChildren(...(several ? layout.frames.map(([first], n) => {
    const button = make('button'), image = make('img');
    button.type = 'button';
    image.src = pictures[first];
    image.alt = '';
    button.append(image, make('span'));
    button.addEventListener('click', () => { state.pinned = false; hide(); face(n); counts(); draw(); });
    return button;
  }) : []));
  counts();
}

// What is left of each picture at this stage.
function counts() {
  const of = state.view.layout.names.map(() => [0, 0]);
  if (state.photos.length > 1) state.boxes.forEach((b, i) => { const own = of[pictureOf(b.tile)]; own[1] += 1; own[0] += d.fateAt(state.stops, i, state.stop).fate === d.KEPT; });
  [...$('.pc-pictures').children].forEach((button, n) => {
    button.setAttribute('aria-pressed', String(n === state.picture));
    button.lastChild.textContent = state.view.layout.names[n] + (of[n][1] ? `: ${of[n][0]} of ${of[n][1]}` : '');
  });
}

// How high the picture may be so that the stages below it fit on the first screen, however long the headline is. Where
// the columns stand below each other they do not, and only the share counts.
function room() {
  const above = $('.pc-frame').getBoundingClientRect().top + window.scrollY, share = window.innerHeight * HEIGHT_SHARE;
  const below = $('.pc-tools').offsetHeight + $('.pc-stages').offsetHeight + $('.pc-pictures').offsetHeight + 3 * 8;
  return above > share ? share : Math.min(share, window.innerHeight - above - below);
}

function scene() {
  const { layout } = state.view, [w, h] = layout.pictures_wh[state.picture], tile = layout.tiles[shown()[0]], model = state.options.model && shown().length === 1;
  const frame = model ? tile.box_xyxy : [0, 0, w, h], across = frame[2] - frame[0], down = frame[3] - frame[1];
  const wide = $('.pc-frame').clientWidth || 480, high = Math.max(250, room()), ratio = window.devicePixelRatio || 1;
  const scale = Math.min(wide / across, high / down);
  canvas.style.width = `${Math.round(across * scale)}px`;
  canvas.style.height = `${Math.round(down * scale)}px`;
  const width = Math.round(across * scale * ratio), height = Math.round(down * scale * ratio);
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  return { boxes: state.boxes, photo: photo(), picture: [w, h], frame, width, height, ratio, opacity: state.options.opacity, pixels: model ? tile.model_wh : null };
}

function draw() {
  if (!photo()?.naturalWidth) return; // not loaded yet
  const stop = state.stops[state.stop];
  legend(stop); // first: how much room it takes decides how much there is for the picture
  const s = state.scene = scene(), fates = state.boxes.map((_, i) => d.fateAt(state.stops, i, state.stop).fate);
  d.photo(ink, s);
  if (state.word) d.attention(ink, s, state.word.weights);
  else if (state.mode === 'kept') d.fates(ink, s, fates);
  else if (state.mode === 'score' && stop.score) d.scores(ink, s, stop);
  else if (state.mode === 'why' && stop.why) d.reasons(ink, s, fates, stop.why);
  if (state.options.grid) d.grid(ink, s);
  if (state.stop > 0 && ['kept', 'why'].includes(state.mode) && !state.word) d.kept(ink, s, (i) => fates[i] === d.KEPT);
  if (state.options.region && state.region.size) d.answerRegion(ink, s, (i) => state.region.has(i));
  d.outside(ink, s, shown().map((i) => state.view.layout.tiles[i]));
  if (state.at >= 0) d.ring(ink, s, state.at, links(state.at));
  if (state.word?.near >= 0 && shown().includes(state.boxes[state.word.near].tile)) d.ring(ink, s, state.word.near, []);
}

function links(token) {
  const into = d.landing(state.stops, token, state.stop), found = into >= 0 && into !== token ? [[into, d.colour('merged-into')]] : [];
  const alike = state.nearest && d.fateAt(state.stops, token, state.stop).fate !== d.KEPT ? state.nearest.token[token] : -1;
  return alike >= 0 && alike !== token && alike !== into ? [...found, [alike, d.colour('most-similar')]] : found;
}

// ---- words around the picture --------------------------------------------------------------------------------------

function heading() {
  const v = state.view, chips = $('.pc-chips');
  $('.pc-headline').textContent = v.headline || '';
  chips.replaceChildren();
  if (v.answer_region_kept) {
    const e = v.answer_region_kept;
    chips.append(define(make('span', 'pc-chip region', `answer region kept: ${e.kept} of ${e.of} visual tokens${e.merged ? `, ${e.merged} merged` : ''}`), 'answer region'));
  }
  if (v.method) chips.append(make('span', 'pc-chip', `${v.method}, ${v.variant}`), make('span', 'pc-chip model', v.model), make('span', `pc-chip ${v.recorded ? 'recorded' : 'live'}`, v.recorded ? 'Recorded run' : 'Live run'));
  if (v.weights) chips.append(make('span', 'pc-chip weights', `weights: ${v.weights}`));
  if (v.method) chips.querySelector('.recorded, .live').title = `${v.date}, ${v.machine}`;
  $('.pc-how').replaceChildren(...(v.how ? [explain('kept, merged and scores', v.how)] : []));
}

function stageBar() {
  $('.pc-stops').replaceChildren(...state.stops.map((s, i) => {
    const button = make('button');
    button.type = 'button';
    button.setAttribute('role', 'tab');
    button.append(make('strong', '', String(s.rows)), make('small', '', s.name));
    button.title = s.title;
    button.addEventListener('click', () => go(i));
    return button;
  }));
  mark();
}

function mark() {
  [...$('.pc-stops').children].forEach((b, i) => { b.setAttribute('aria-selected', String(i === state.stop)); b.tabIndex = i === state.stop ? 0 : -1; });
  const s = state.stops[state.stop], parts = [s.title];
  if (state.stop > 0) parts.push(`${s.rows} tokens passed on`, ...(s.summary ? [s.summary] : []), `decided in ${s.ms.toFixed(1)} ms (measured once)`, `positions: ${state.view.positions}`);
  $('.pc-about').textContent = parts.join(' · ');
  nameCells();
  counts();
  emit('stop', state.stop);
  emit('stage', state.stop > 0 && s.part === 'language model' ? s.layer : null);
}

function go(stop) {
  state.stop = Math.max(0, Math.min(state.stops.length - 1, stop));
  mark();
  draw();
  if (state.at >= 0 && !card.hidden) show(state.at);
  if ($('.pc-table').open) table();
}

function play() {
  if (STILL.matches) { go((state.stop + 1) % state.stops.length); return; } // one stage a press, nothing moves by itself
  if (state.timer) { clearInterval(state.timer); state.timer = null; $('.pc-play').textContent = '▶'; return; }
  go(0);
  $('.pc-play').textContent = '❚❚';
  state.timer = setInterval(() => { if (state.stop >= state.stops.length - 1) play(); else go(state.stop + 1); }, 700);
}

// The fourth display mode exists for methods that keep tokens for several reasons.
function reasoned() {
  const has = state.stops.some((s) => s.why);
  $('[data-mode="why"]').hidden = !has;
  if (!has && state.mode === 'why') markMode('kept');
}

function legend(stop) {
  const box = $('.pc-legend'), item = (name, text) => { const span = make('span'); span.append(make('i', name), text); return define(span, text); };
  if (state.word) box.replaceChildren('less', make('i', 'heat'), `more · ${state.word.text}`);
  else if (state.mode === 'score') box.replaceChildren(...(stop.score ? ['least important', make('i', 'heat'), 'most important'] : [phrase(state.stop ? 'noScores' : 'scoresLater')]));
  else if (state.mode === 'kept') box.replaceChildren(item('kept', 'kept'), item('dropped', 'dropped'), ...(state.stops.some((s) => s.into) ? [item('merged', 'merged')] : []));
  else if (state.mode === 'why') box.replaceChildren(...(stop.why ? stop.why.names.map((name, i) => { const span = item('', name); span.firstChild.style.background = `var(--ps-reason-${i % 6})`; return span; }) : [phrase(state.stop ? 'oneReason' : 'reasonsLater')]));
  else box.replaceChildren();
}

// ---- one visual token -----------------------------------------------------------------------------------------------------

function describe(token) {
  const { fate, stop } = d.fateAt(state.stops, token, state.stop), where = stop ? state.stops[stop].title.toLowerCase() : '';
  if (fate === d.KEPT) return state.stop === 0 ? 'part of the full picture' : 'kept';
  if (fate === d.MERGED) return `merged into token ${d.landing(state.stops, token, state.stop)} ${where}`;
  const left = d.leftAt(state.stops, token);
  return left.into < 0 ? `dropped ${where}` : `merged into token ${left.into} ${state.stops[left.stop].title.toLowerCase()}, dropped with it ${where}`;
}

// The score that decided: of the stop where the token left, or of the current one.
function scored(token) {
  for (const s of [d.fateAt(state.stops, token, state.stop).stop, d.leftAt(state.stops, token).stop, state.stop]) {
    const stop = state.stops[s];
    if (s > 0 && stop.score && !Number.isNaN(stop.score[token])) return { score: stop.score[token], rank: stop.ranks.rank[token], of: stop.ranks.of };
  }
  return null;
}

const number = (x) => Math.abs(x) >= 0.001 && Math.abs(x) < 1e4 ? x.toFixed(4) : x.toExponential(2);

function facts(token) {
  const b = state.boxes[token], s = scored(token), { tiles, names } = state.view.layout, picture = pictureOf(b.tile), own = tiles.filter((t) => t.picture === picture);
  const tile = own.length > 1 ? ` of tile ${own.indexOf(tiles[b.tile]) + 1}` : '', which = names.length > 1 ? ` of ${names[picture]}` : '';
  const list = [['row, column', `${b.row + 1}, ${b.col + 1}${tile}${which}`], ['now', describe(token)]], reasons = state.stops[state.stop].why, why = reasons?.names[reasons.of[token]];
  if (why) list.push(['kept for', why]);
  if (s) list.push(['score', number(s.score)], ['rank', `${s.rank} of ${s.of}`]);
  if (state.nearest && state.nearest.token[token] >= 0 && state.nearest.token[token] !== token) list.push(['most similar kept token', `${state.nearest.token[token]} (cosine ${state.nearest.cosine[token].toFixed(2)})`]);
  if (state.region.has(token)) list.push(['answer region', 'holds part of the answer']);
  return { list, scored: s };
}

function show(token) {
  reveal(token);
  state.at = token;
  const { list, scored: s } = facts(token);
  card.replaceChildren(make('b', '', `Visual token ${token}`), ...list.map(([name, value]) => { const r = make('div', 'row'); r.append(make('span', '', name), make('span', '', value)); return r; }));
  if (s) { const bar = make('div', 'bar'), fill = make('i'); fill.style.width = `${100 * (1 - (s.rank - 1) / Math.max(1, s.of - 1))}%`; bar.append(fill); card.append(bar); }
  card.hidden = false;
  canvas.setAttribute('aria-activedescendant', cellId(token));
  draw();
  const [x, y, w] = d.cell(state.scene, state.boxes[token]), k = canvas.clientWidth / canvas.width, left = canvas.offsetLeft + (x + w) * k + 10;
  card.style.left = `${left + 246 > $('.pc-frame').clientWidth ? Math.max(0, canvas.offsetLeft + x * k - 254) : left}px`;
  card.style.top = `${Math.max(0, Math.min(y * k - 20, canvas.clientHeight - card.offsetHeight))}px`;
  emit('token', Object.fromEntries(['full', 'pruned', 'compensated'].map((answer) => [answer, strongest(answer, token)])));
}

// The word of an answer that gives this token the largest part of its attention.
function strongest(answer, token) {
  const a = state.attention?.[answer];
  if (!a) return -1;
  let best = -1, most = 8;
  a.words.forEach((weights, i) => { if (weights[token] > most) { most = weights[token]; best = i; } });
  return best;
}

function speak(token) { live.textContent = `Visual token row ${state.boxes[token].row + 1}, column ${state.boxes[token].col + 1}, ${facts(token).list.slice(1).map(([n, v]) => n === 'now' ? v : `${n} ${v}`).join(', ')}`; }

function hide() { if (state.at >= 0) emit('token', null); state.at = -1; card.hidden = true; canvas.removeAttribute('aria-activedescendant'); }

// ---- the same for screen readers: rows and cells inside the canvas, which are read and never drawn -----------------

const cellId = (token) => `pc-token-${token}`;

function cells() {
  const rows = new Map();
  state.boxes.forEach((b, token) => {
    const key = `${b.tile}.${b.row}`, cell = make('div');
    if (!rows.has(key)) { rows.set(key, make('div')); rows.get(key).setAttribute('role', 'row'); }
    cell.id = cellId(token);
    cell.setAttribute('role', 'gridcell');
    rows.get(key).append(cell);
  });
  canvas.replaceChildren(...rows.values());
}

function nameCells() {
  state.boxes.forEach((_, token) => { canvas.querySelector(`#${cellId(token)}`).textContent = `visual token ${token} ${FATES[d.fateAt(state.stops, token, state.stop).fate]}`; });
}

// ---- the same as a table -------------------------------------------------------------------------------------------

const sorting = { column: 0, down: false };

function table() {
  const rows = state.boxes.map((b, i) => { const s = scored(i), { fate, stop } = d.fateAt(state.stops, i, state.stop); return [i, b.row + 1, b.col + 1, FATES[fate], stop ? state.stops[stop].name : '', s ? s.score : NaN, s ? s.rank : NaN, state.region.has(i) ? 'yes' : '']; });
  const { column, down } = sorting, order = (a, b) => typeof a === 'string' ? a.localeCompare(b) : (Number.isNaN(a) ? 1 : Number.isNaN(b) ? -1 : a - b);
  rows.sort((a, b) => (down ? -1 : 1) * order(a[column], b[column]) || a[0] - b[0]);
  const made = make('table'), head = make('tr');
  ['visual token', 'row', 'column', 'fate', 'decided', 'score', 'rank', 'answer region'].forEach((name, i) => {
    const th = make('th'), button = make('button', '', name + (i === column ? (down ? ' ▼' : ' ▲') : ''));
    button.type = 'button';
    th.setAttribute('aria-sort', i === column ? (down ? 'descending' : 'ascending') : 'none');
    button.addEventListener('click', () => { sorting.down = i === sorting.column && !sorting.down; sorting.column = i; table(); });
    th.append(button); head.append(th);
  });
  made.append(head, ...rows.map((r) => { const tr = make('tr'); r.forEach((v) => tr.append(make('td', '', typeof v === 'number' ? (Number.isNaN(v) ? '–' : Number.isInteger(v) ? String(v) : number(v)) : v))); tr.addEventListener('pointerenter', () => show(r[0])); return tr; }));
  $('.pc-table-body').replaceChildren(made);
}
$('.pc-table').addEventListener('toggle', () => { if ($('.pc-table').open) table(); });

// ---- events --------------------------------------------------------------------------------------------------------

function tokenAt(event) {
  const r = canvas.getBoundingClientRect();
  return state.scene ? d.tokenAt(state.scene, (event.clientX - r.left) / r.width * canvas.width, (event.clientY - r.top) / r.height * canvas.height) : -1;
}
canvas.addEventListener('pointermove', (e) => { if (!state.view || state.pinned) return; const t = tokenAt(e); if (t < 0) { hide(); draw(); } else if (t !== state.at) show(t); });
canvas.addEventListener('pointerleave', () => { if (!state.pinned && document.activeElement !== canvas) { hide(); draw(); } });
canvas.addEventListener('click', (e) => { const t = tokenAt(e); if (t < 0) return; state.pinned = !(state.pinned && t === state.at); show(t); });
canvas.addEventListener('keydown', (e) => {
  if (!state.boxes.length) return;
  const at = Math.max(0, state.at), { cols, col } = state.boxes[at], moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: cols, ArrowUp: -cols, Home: -col, End: cols - 1 - col };
  if (e.key in moves) { e.preventDefault(); const next = state.at < 0 ? 0 : at + moves[e.key]; if (next >= 0 && next < state.boxes.length) { show(next); speak(next); } }
  else if (e.key === 'Enter') { e.preventDefault(); state.pinned = !state.pinned; show(at); speak(at); }
  else if (e.key === 'Escape') { state.pinned = false; hide(); draw(); }
});
canvas.addEventListener('blur', () => { if (!state.pinned) { hide(); draw(); } });
function setMode(mode, focus) {
  markMode(mode, focus);
  draw();
}
function markMode(mode, focus) {
  state.mode = mode;
  for (const b of element.querySelectorAll('.pc-modes button')) { const chosen = b.dataset.mode === mode; b.setAttribute('aria-checked', String(chosen)); b.tabIndex = chosen ? 0 : -1; if (chosen && focus) b.focus(); }
}
$('.pc-modes').addEventListener('click', (e) => { const m = e.target.dataset.mode; if (m) setMode(m); });
$('.pc-modes').addEventListener('keydown', (e) => {
  const all = [...element.querySelectorAll('.pc-modes button:not([hidden])')].map((b) => b.dataset.mode), step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
  if (step) { e.preventDefault(); setMode(all[(all.indexOf(state.mode) + step + all.length) % all.length], true); }
});
for (const input of element.querySelectorAll('[data-option]')) {
  const name = input.dataset.option;
  if (input.type === 'checkbox') input.checked = state.options[name];
  input.addEventListener('input', () => { state.options[name] = input.type === 'checkbox' ? input.checked : Number(input.value); if (name === 'overview') { hide(); lay(); } draw(); });
}
$('.pc-stops').addEventListener('keydown', (e) => { const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key]; if (step) { e.preventDefault(); go(state.stop + step); $('.pc-stops').children[state.stop].focus(); } });
$('.pc-play').addEventListener('click', play);
new ResizeObserver(() => draw()).observe($('.pc-frame'));
window.addEventListener('resize', () => draw());

on('run', (run) => { if (run.canvas) open(run.canvas); });
on('theme', () => { if (state.view) draw(); });
// The visual token whose prediction is nearest to a word, and what pruning did with it, whatever stage is shown.
function nearest(near) {
  if (near === undefined) return '';
  const { fate, stop } = d.fateAt(state.stops, near, state.stops.length - 1), pruned = state.stops.length > 1;
  const became = { [d.KEPT]: 'kept', [d.MERGED]: 'merged', [d.DROPPED]: 'removed' }[fate];
  return ` · nearest visual token (signal of ReVisiT): ${near}${pruned ? `, ${became} by pruning${fate === d.KEPT ? '' : ` ${state.stops[stop].title.toLowerCase()}`}` : ''}`;
}
on('word', (word) => {
  const a = word && state.attention?.[word.answer], near = a?.nearest?.[word.index];
  state.word = a && a.words[word.index] ? { weights: a.words[word.index], near: near ?? -1, text: `${word.sure === null ? '' : `“${word.text}” is ${Math.round(100 * word.sure)} % sure; `}${Math.round(100 * a.shares[word.index])} % of the attention of “${word.text}” goes to the picture (${word.answer === 'compensated' ? 'pruned + caption' : word.answer} run)${nearest(near)}` } : null;
  draw();
});

// ---- a picture of one's own: drop it here, or paste it anywhere ------------------------------------------------------

async function bring(files) {
  if (!files.length) { emit('status', { kind: 'error', text: phrase('noFile') }); return; }
  try {
    const paths = [];
    for (const file of files) paths.push((await upload(file)).path);
    trigger('picture', { paths });
  } catch (error) {
    console.warn(error);
    emit('status', { kind: 'error', text: phrase('fileRefused') });
  }
}
window.addEventListener('dragover', (e) => { e.preventDefault(); dropHint.hidden = false; });
window.addEventListener('dragleave', (e) => { if (!e.relatedTarget) dropHint.hidden = true; });
window.addEventListener('drop', (e) => { e.preventDefault(); dropHint.hidden = true; bring([...e.dataTransfer.files]); });
document.addEventListener('paste', (e) => {
  const data = e.clipboardData, typing = e.target.closest?.('input, textarea');
  if (!data?.files.length || (typing && data.types.includes('text/plain'))) return;
  e.preventDefault();
  bring([...data.files]);
});
