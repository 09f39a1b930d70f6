// Draws one run on its picture. Everything shown on hover, scrub or switch is already in `props.value`: no request.
// All text goes through textContent; nothing that a person or a model wrote is ever read as markup.

const GONE = 0, DROPPED = 1, MERGED = 2, KEPT = 3;
const CIVIDIS = [[0,34,78],[18,53,112],[59,73,108],[87,93,109],[112,113,115],[138,134,120],[165,156,116],[195,179,105],[225,204,85],[254,232,56]];
const MAX_HEIGHT_SHARE = 0.52;

const $ = (s) => element.querySelector(s);
const canvas = $('.pc-canvas'), context = canvas.getContext('2d'), card = $('.pc-card'), live = $('.pc-live'), dropHint = $('.pc-drop');
const state = { view: null, photo: null, dim: null, stop: 0, mode: 'kept', options: { evidence: true, grid: false, strength: 72 }, at: -1, pinned: false, scale: 1, boxes: [], stops: [], timer: null };

function bytes(text, Type) {
  const raw = atob(text), array = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) array[i] = raw.charCodeAt(i);
  return new Type(array.buffer);
}

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

// ---- reading a run ---------------------------------------------------------------------------------------------

function boxesOf(layout) {
  const boxes = [];
  layout.tiles.forEach((tile, number) => {
    const [rows, cols] = tile.grid_hw, [x0, y0, x1, y1] = tile.box_xyxy, w = (x1 - x0) / cols, h = (y1 - y0) / rows;
    for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) boxes.push({ x: x0 + c * w, y: y0 + r * h, w, h, row: r, col: c, rows, cols, tile: number });
  });
  return boxes;
}

function ranks(score) {
  const order = [...score.keys()].filter((i) => !Number.isNaN(score[i])).sort((a, b) => score[b] - score[a] || a - b), rank = new Int32Array(score.length).fill(-1);
  order.forEach((token, place) => { rank[token] = place + 1; });
  return { rank, of: order.length, low: score[order[order.length - 1]], high: score[order[0]] };
}

function open(view) {
  const before = state.view;
  state.view = view;
  state.boxes = boxesOf(view.layout);
  state.stops = view.stops.map((s) => {
    const score = s.score ? bytes(s.score, Float32Array) : null;
    return { ...s, fate: bytes(s.fate, Uint8Array), score, ranks: score ? ranks(score) : null, into: s.merged_into ? bytes(s.merged_into, Int32Array) : null };
  });
  state.evidence = new Set(view.evidence || []);
  state.stop = state.stops.length - 1;
  state.pinned = false;
  hide();
  heading();
  stageBar();
  if (before && before.picture === view.picture && state.photo) return draw();
  const photo = new Image();
  photo.onload = () => { state.photo = photo; state.dim = null; draw(); };
  photo.src = view.picture;
}

// The fate of a token at a stop, with where it left: tokens that are gone left at an earlier stop.
function fateAt(token, stop) {
  for (let s = stop; s > 0; s--) {
    const fate = state.stops[s].fate[token];
    if (fate !== GONE) return { fate, stop: s };
  }
  return { fate: stop > 0 && state.stops[stop].fate[token] === GONE ? GONE : KEPT, stop: 0 };
}

// ---- drawing -----------------------------------------------------------------------------------------------------

function size() {
  const [w, h] = state.view.layout.picture_wh, wide = $('.pc-frame').clientWidth || 480, high = Math.max(260, window.innerHeight * MAX_HEIGHT_SHARE);
  const scale = Math.min(wide / w, high / h), ratio = window.devicePixelRatio || 1;
  canvas.style.width = `${Math.round(w * scale)}px`;
  canvas.style.height = `${Math.round(h * scale)}px`;
  canvas.width = Math.round(w * scale * ratio);
  canvas.height = Math.round(h * scale * ratio);
  state.scale = canvas.width / w;
}

function dimmed() {
  const strength = state.options.strength, key = `${canvas.width}x${canvas.height}:${strength}`;
  if (state.dim && state.dim.key === key) return state.dim.image;
  const image = document.createElement('canvas');
  image.width = canvas.width; image.height = canvas.height;
  const ink = image.getContext('2d');
  ink.filter = `grayscale(${strength}%)`;
  ink.drawImage(state.photo, 0, 0, image.width, image.height);
  ink.filter = 'none';
  ink.fillStyle = `rgba(13, 17, 23, ${strength / 100})`;
  ink.fillRect(0, 0, image.width, image.height);
  state.dim = { key, image };
  return image;
}

function hatch() {
  const tile = document.createElement('canvas');
  tile.width = tile.height = 8;
  const ink = tile.getContext('2d');
  ink.strokeStyle = 'rgba(255, 255, 255, .17)';
  ink.lineWidth = 1.2;
  for (const d of [-8, 0, 8]) { ink.beginPath(); ink.moveTo(d, 8); ink.lineTo(d + 8, 0); ink.stroke(); }
  return context.createPattern(tile, 'repeat');
}

function cell(box) {
  const k = state.scale, x = Math.round(box.x * k), y = Math.round(box.y * k);
  return [x, y, Math.round((box.x + box.w) * k) - x, Math.round((box.y + box.h) * k) - y];
}

function draw() {
  if (!state.view || !state.photo) return;
  size();
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(state.photo, 0, 0, canvas.width, canvas.height);
  const stop = state.stops[state.stop], fates = state.boxes.map((_, i) => fateAt(i, state.stop).fate);
  if (state.mode === 'kept') drawFates(fates);
  if (state.mode === 'score') drawScore(stop);
  if (state.options.grid) drawGrid();
  if (state.mode !== 'photo') outline((i) => fates[i] === KEPT, state.stop > 0 && state.mode === 'kept');
  if (state.options.evidence && state.evidence.size) evidence();
  unseen();
  if (state.at >= 0) ring(state.at);
  legend(stop);
}

function drawFates(fates) {
  const dim = dimmed(), lines = hatch();
  fates.forEach((fate, i) => {
    if (fate === KEPT) return;
    const [x, y, w, h] = cell(state.boxes[i]);
    context.drawImage(dim, x, y, w, h, x, y, w, h);
    if (fate === MERGED) {
      const r = Math.min(w, h) * 0.2;
      context.strokeStyle = 'rgba(255, 255, 255, .85)';
      context.lineWidth = Math.max(1, w / 16);
      context.beginPath(); context.moveTo(x + w / 2, y + h / 2 - r); context.lineTo(x + w / 2 + r, y + h / 2); context.lineTo(x + w / 2, y + h / 2 + r); context.lineTo(x + w / 2 - r, y + h / 2); context.closePath(); context.stroke();
    } else {
      context.fillStyle = lines;
      context.fillRect(x, y, w, h);
    }
  });
}

function heat(t) {
  const place = Math.max(0, Math.min(1, t)) * (CIVIDIS.length - 1), i = Math.min(CIVIDIS.length - 2, Math.floor(place)), f = place - i;
  return CIVIDIS[i].map((v, c) => Math.round(v + (CIVIDIS[i + 1][c] - v) * f));
}

function drawScore(stop) {
  if (!stop.score) return;
  const lines = hatch(), strength = state.options.strength / 100;
  state.boxes.forEach((box, i) => {
    const [x, y, w, h] = cell(box);
    if (Number.isNaN(stop.score[i])) {
      context.drawImage(dimmed(), x, y, w, h, x, y, w, h);
      context.fillStyle = lines;
    } else {
      // By rank, not by value: a few huge scores would paint everything else the same dark blue.
      const [r, g, b] = heat(1 - (stop.ranks.rank[i] - 1) / Math.max(1, stop.ranks.of - 1));
      context.fillStyle = `rgba(${r}, ${g}, ${b}, ${strength})`;
    }
    context.fillRect(x, y, w, h);
  });
}

function drawGrid() {
  context.strokeStyle = 'rgba(255, 255, 255, .22)';
  context.lineWidth = 1;
  for (const box of state.boxes) { const [x, y, w, h] = cell(box); context.strokeRect(x + 0.5, y + 0.5, w, h); }
}

// The border of a set of tokens: one segment wherever a neighbour is not in the set.
function border(inside, paint) {
  const at = new Map(state.boxes.map((b, i) => [`${b.tile}:${b.row}:${b.col}`, i]));
  const has = (b, dr, dc) => { const i = at.get(`${b.tile}:${b.row + dr}:${b.col + dc}`); return i !== undefined && inside(i); };
  context.beginPath();
  state.boxes.forEach((b, i) => {
    if (!inside(i)) return;
    const [x, y, w, h] = cell(b);
    if (!has(b, -1, 0)) { context.moveTo(x, y); context.lineTo(x + w, y); }
    if (!has(b, 1, 0)) { context.moveTo(x, y + h); context.lineTo(x + w, y + h); }
    if (!has(b, 0, -1)) { context.moveTo(x, y); context.lineTo(x, y + h); }
    if (!has(b, 0, 1)) { context.moveTo(x + w, y); context.lineTo(x + w, y + h); }
  });
  paint();
}

function stroke(color, width, dash = []) { context.setLineDash(dash); context.strokeStyle = color; context.lineWidth = width; context.stroke(); context.setLineDash([]); }

function outline(inside, wanted) {
  if (!wanted) return;
  const px = window.devicePixelRatio || 1;
  border(inside, () => { stroke('rgba(0, 0, 0, .75)', 3 * px); stroke('rgba(255, 255, 255, .95)', 1.2 * px); });
}

function evidence() {
  const px = window.devicePixelRatio || 1;
  border((i) => state.evidence.has(i), () => { stroke('rgba(0, 0, 0, .8)', 4.5 * px); stroke('#E69F00', 2.4 * px, [7 * px, 4 * px]); });
}

// What the model never sees (cut off by its square view).
function unseen() {
  if (state.view.layout.tiles.length !== 1) return;
  const [x0, y0, x1, y1] = state.view.layout.tiles[0].box_xyxy.map((v) => v * state.scale), w = canvas.width, h = canvas.height;
  context.fillStyle = 'rgba(90, 96, 104, .82)';
  for (const r of [[0, 0, w, y0], [0, y1, w, h - y1], [0, y0, x0, y1 - y0], [x1, y0, w - x1, y1 - y0]]) if (r[2] > 0.5 && r[3] > 0.5) context.fillRect(...r);
}

function ring(token) {
  const px = window.devicePixelRatio || 1, target = landing(token);
  const [x, y, w, h] = cell(state.boxes[token]);
  if (target >= 0 && target !== token) {
    const [u, v, a, b] = cell(state.boxes[target]);
    context.beginPath(); context.moveTo(x + w / 2, y + h / 2); context.lineTo(u + a / 2, v + b / 2);
    stroke('rgba(0, 0, 0, .8)', 4 * px); context.beginPath(); context.moveTo(x + w / 2, y + h / 2); context.lineTo(u + a / 2, v + b / 2); stroke('#56B4E9', 2 * px);
    context.beginPath(); context.rect(u, v, a, b); stroke('#56B4E9', 2 * px);
  }
  context.beginPath(); context.rect(x, y, w, h);
  stroke('rgba(0, 0, 0, .9)', 5 * px); stroke('#FFFFFF', 2.4 * px);
}

function landing(token) {
  const { fate, stop } = fateAt(token, state.stop), into = state.stops[stop].into;
  return fate === MERGED && into ? into[token] : -1;
}

function legend(stop) {
  const box = $('.pc-legend');
  box.replaceChildren();
  const item = (name, text) => { const span = make('span'); span.append(make('i', name), text); box.append(span); };
  if (state.mode === 'score') {
    if (stop.score) { box.append('low rank'); box.append(make('i', 'heat')); box.append('high'); } else box.append(state.stop ? 'this method gives no scores here' : 'choose a later stage to see scores');
  } else if (state.mode === 'kept') {
    item('kept', 'kept'); item('dropped', 'dropped');
    if (state.stops.some((s) => s.into)) item('merged', 'merged');
  }
}

// ---- words around the picture ---------------------------------------------------------------------------------

function heading() {
  const v = state.view, chips = $('.pc-chips');
  $('.pc-headline').textContent = v.headline || '';
  chips.replaceChildren();
  if (v.evidence_kept) {
    const e = v.evidence_kept, text = `evidence kept: ${e.kept} of ${e.of} pieces` + (e.merged ? `, ${e.merged} merged` : '');
    chips.append(make('span', 'pc-chip evidence', text));
  }
  if (v.method) chips.append(make('span', 'pc-chip', `${v.method}, ${v.variant}`));
  if (v.method) chips.append(make('span', `pc-chip ${v.recorded ? 'recorded' : 'live'}`, v.recorded ? 'Recorded run' : 'Live run'));
}

function stageBar() {
  const bar = $('.pc-stops');
  bar.replaceChildren();
  state.stops.forEach((s, i) => {
    const button = make('button');
    button.type = 'button';
    button.setAttribute('role', 'tab');
    button.append(make('strong', '', String(s.rows)), make('small', '', s.name));
    button.title = s.title;
    button.addEventListener('click', () => go(i));
    bar.append(button);
  });
  mark();
}

function mark() {
  [...$('.pc-stops').children].forEach((b, i) => { b.setAttribute('aria-selected', String(i === state.stop)); b.tabIndex = i === state.stop ? 0 : -1; });
  const s = state.stops[state.stop], parts = [s.title];
  if (state.stop > 0) {
    parts.push(`${s.rows} rows go on`);
    if (s.summary) parts.push(s.summary);
    parts.push(`decided in ${s.ms.toFixed(1)} ms (measured once)`, `positions: ${state.view.positions}`);
  }
  $('.pc-about').textContent = parts.join(' · ');
}

function go(stop) {
  state.stop = Math.max(0, Math.min(state.stops.length - 1, stop));
  mark();
  draw();
  if (state.at >= 0 && !card.hidden) show(state.at);
}

function play() {
  if (state.timer) { clearInterval(state.timer); state.timer = null; $('.pc-play').textContent = '▶'; return; }
  go(0);
  $('.pc-play').textContent = '❚❚';
  state.timer = setInterval(() => { if (state.stop >= state.stops.length - 1) play(); else go(state.stop + 1); }, 700);
}

// ---- one piece -----------------------------------------------------------------------------------------------------

function tokenAt(event) {
  const r = canvas.getBoundingClientRect(), x = (event.clientX - r.left) / r.width * canvas.width / state.scale, y = (event.clientY - r.top) / r.height * canvas.height / state.scale;
  return state.boxes.findIndex((b) => x >= b.x && x < b.x + b.w && y >= b.y && y < b.y + b.h);
}

function describe(token) {
  const { fate, stop } = fateAt(token, state.stop), where = stop ? state.stops[stop].title.toLowerCase() : '';
  if (fate === KEPT) return state.stop === 0 ? 'part of the whole picture' : 'kept';
  if (fate === MERGED) return `merged into piece ${landing(token)} ${where}`;
  return `dropped ${where}`;
}

// The score that decided: of the stop where the token left, or of the current one.
function scored(token) {
  const { stop } = fateAt(token, state.stop), candidates = [stop, state.stop];
  for (const s of candidates) if (s > 0 && state.stops[s].score && !Number.isNaN(state.stops[s].score[token])) return { score: state.stops[s].score[token], rank: state.stops[s].ranks.rank[token], of: state.stops[s].ranks.of };
  return null;
}

function show(token) {
  state.at = token;
  const b = state.boxes[token], s = scored(token), row = (name, value) => { const r = make('div', 'row'); r.append(make('span', '', name), make('span', '', value)); return r; };
  card.replaceChildren(make('b', '', `Piece ${token}`), row('row, column', `${b.row + 1}, ${b.col + 1}`), row('now', describe(token)));
  if (s) {
    card.append(row('score', Math.abs(s.score) >= 0.001 && Math.abs(s.score) < 1e4 ? s.score.toFixed(4) : s.score.toExponential(2)), row('rank', `${s.rank} of ${s.of}`));
    const bar = make('div', 'bar'), fill = make('i');
    fill.style.width = `${100 * (1 - (s.rank - 1) / Math.max(1, s.of - 1))}%`;
    bar.append(fill); card.append(bar);
  }
  if (state.evidence.has(token)) card.append(row('evidence', 'holds part of the answer'));
  card.hidden = false;
  const [x, y, w] = cell(b), k = canvas.clientWidth / canvas.width, left = canvas.offsetLeft + (x + w) * k + 10;
  card.style.left = `${left + 236 > $('.pc-frame').clientWidth ? Math.max(0, canvas.offsetLeft + x * k - 244) : left}px`;
  card.style.top = `${Math.max(0, Math.min(y * k - 20, canvas.clientHeight - card.offsetHeight))}px`;
  draw();
}

function speak(token) {
  const b = state.boxes[token], s = scored(token);
  live.textContent = `Piece row ${b.row + 1}, column ${b.col + 1}, ${describe(token)}` + (s ? `, rank ${s.rank} of ${s.of}` : '');
}

function hide() { state.at = -1; card.hidden = true; }

// ---- events --------------------------------------------------------------------------------------------------------

canvas.addEventListener('pointermove', (e) => { if (!state.view || state.pinned) return; const t = tokenAt(e); if (t < 0) { hide(); draw(); } else if (t !== state.at) show(t); });
canvas.addEventListener('pointerleave', () => { if (!state.pinned && document.activeElement !== canvas) { hide(); draw(); } });
canvas.addEventListener('click', (e) => { const t = tokenAt(e); if (t < 0) return; state.pinned = !(state.pinned && t === state.at); show(t); });
canvas.addEventListener('keydown', (e) => {
  if (!state.view) return;
  const at = Math.max(0, state.at), { cols, rows } = state.boxes[at], moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: cols, ArrowUp: -cols, Home: -(at % cols), End: cols - 1 - (at % cols) };
  if (e.key in moves) { e.preventDefault(); const next = state.at < 0 ? 0 : at + moves[e.key]; if (next >= 0 && next < Math.min(state.boxes.length, rows * cols)) { show(next); speak(next); } }
  else if (e.key === 'Enter') { e.preventDefault(); state.pinned = !state.pinned; show(at); speak(at); }
  else if (e.key === 'Escape') { state.pinned = false; hide(); draw(); }
});
canvas.addEventListener('blur', () => { if (!state.pinned) { hide(); draw(); } });
$('.pc-modes').addEventListener('click', (e) => { const m = e.target.dataset.mode; if (m) setMode(m); });
$('.pc-modes').addEventListener('keydown', (e) => {
  const all = ['kept', 'score', 'photo'], step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
  if (step) { e.preventDefault(); setMode(all[(all.indexOf(state.mode) + step + all.length) % all.length], true); }
});
function setMode(mode, focus) {
  state.mode = mode;
  for (const b of element.querySelectorAll('.pc-modes button')) { const on = b.dataset.mode === mode; b.setAttribute('aria-checked', String(on)); b.tabIndex = on ? 0 : -1; if (on && focus) b.focus(); }
  draw();
}
for (const input of element.querySelectorAll('[data-option]')) {
  if (input.type === 'checkbox') input.checked = state.options[input.dataset.option];
  input.addEventListener('input', () => { state.options[input.dataset.option] = input.type === 'checkbox' ? input.checked : Number(input.value); draw(); });
}
$('.pc-stops').addEventListener('keydown', (e) => { const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key]; if (step) { e.preventDefault(); go(state.stop + step); $('.pc-stops').children[state.stop].focus(); } });
$('.pc-play').addEventListener('click', play);
new ResizeObserver(() => draw()).observe($('.pc-frame'));
window.addEventListener('resize', () => draw());

// ---- a picture of one's own: drop it here, or paste it anywhere ----------------------------------------------

async function bring(file) {
  if (!file) return;
  const { path } = await upload(file);
  trigger('picture', { path, name: file.name || 'pasted picture' });
}
element.addEventListener('dragover', (e) => { e.preventDefault(); dropHint.hidden = false; });
element.addEventListener('dragleave', (e) => { if (!element.contains(e.relatedTarget)) dropHint.hidden = true; });
element.addEventListener('drop', (e) => { e.preventDefault(); dropHint.hidden = true; bring(e.dataTransfer.files[0]); });
document.addEventListener('paste', (e) => { const file = [...(e.clipboardData?.files || [])][0]; if (file) { e.preventDefault(); bring(file); } });

watch('value', () => { if (props.value) open(props.value); });
if (props.value) open(props.value);
