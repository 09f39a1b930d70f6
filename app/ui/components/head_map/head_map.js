// Every head of every layer, coloured by what the plan found; a threshold shows which would go. No request: all values
// are here. Only choosing a head asks Python, for its curves.

const { make, on, explain, phrase, radios, drawing, plot } = window.prunescope;
const $ = (s) => element.querySelector(s), slider = $('.hm-slider');
const NAMES = { score: 'score', erank: 'effective rank', ks: 'KS' }, FEW = 12;
const state = { plan: null, heads: [], mode: 'score', at: null, range: [0, 1] };

const number = (x) => x === null || x === undefined ? '–' : x !== 0 && Math.abs(x) < 0.0005 ? x.toExponential(1) : x.toFixed(3);
const where = (h) => `${h.part}, layer ${h.layer}, head ${h.head}`;

// ---- which heads go -----------------------------------------------------------------------------------------------

// The planner's rule: lowest value first, whatever the layer; of equal ones the lower layer, then the lower head; a
// layer keeps its best. `count`: how many go.
function going(mode, count) {
  const order = state.heads.map((h, i) => i).sort((a, b) => state.heads[a][mode] - state.heads[b][mode] || a - b);
  const left = new Map(), gone = new Set();
  let held = 0, last = null;
  for (const h of state.heads) left.set(h.row, (left.get(h.row) || 0) + 1);
  for (const i of order) {
    if (gone.size >= count) break;
    const h = state.heads[i];
    if (left.get(h.row) > 1) { gone.add(i); left.set(h.row, left.get(h.row) - 1); last = h[mode]; } else held += 1;
  }
  return { gone, held, last };
}

function planned() { return state.heads.filter((h) => !h.kept).length; }

function recolour() {
  if (!state.plan || !state.plan.maps.modes.length) return;
  const count = Number(slider.value), { mode } = state, asPlan = mode === 'score' && count === planned();
  const found = going(mode, count), gone = asPlan ? new Set(state.heads.flatMap((h, i) => h.kept ? [] : [i])) : found.gone;
  state.heads.forEach((h, i) => {
    h.goes = gone.has(i);
    h.cell.classList.toggle('goes', h.goes);
    h.cell.classList.toggle('other', h.goes === h.kept);
    if (h.dot) h.dot.classList.toggle('goes', h.goes);
    h.cell.setAttribute('aria-label', `layer ${h.layer}, head ${h.head}, ${NAMES[mode]} ${number(h[mode])}, ${h.goes ? 'removed' : 'kept'}`);
  });
  const share = Math.round(100 * count / state.heads.length), held = found.held ? ` · ${found.held} below it kept: a layer keeps one` : '';
  $('.hm-said').textContent = count ? `${count} of ${state.heads.length} heads removed (${share} %): ${NAMES[mode]} up to ${number(found.last)}${held}` : phrase('noHeadGoes');
  slider.setAttribute('aria-valuetext', $('.hm-said').textContent);
  $('.hm-back').disabled = asPlan;
  $('.hm-use').disabled = mode !== 'score' || asPlan || state.plan.trained;
  $('.hm-use').title = mode === 'score' ? (state.plan.trained ? phrase('gatesShare') : '') : phrase('ranksByScore');
}

function recolourMode(mode) {
  state.mode = mode;
  mark(mode);
  if (!state.plan.maps.modes.length) return;
  const values = state.heads.map((h) => h[mode]), low = Math.min(...values), high = Math.max(...values);
  for (const h of state.heads) {
    const [r, g, b] = drawing.heat((h[mode] - low) / (high - low || 1));
    h.cell.style.background = `rgb(${r}, ${g}, ${b})`;
    h.cell.style.color = 0.3 * r + 0.59 * g + 0.11 * b > 117 ? '#000' : '#fff'; // where black and white on grey are equally far
    h.cell.textContent = h[mode].toFixed(2);
  }
  const item = (name, text) => { const span = make('span'); span.append(make('i', name), text); return span; };
  $('.hm-legend').replaceChildren(number(low), make('i', 'heat'), `${number(high)} ${NAMES[mode]}`, item('goes', 'removed at this threshold'), item('other', 'other than in the plan'));
  recolour();
}

// ---- a plan ---------------------------------------------------------------------------------------------------------

function open(plan) {
  state.plan = plan;
  state.heads = [];
  state.at = null;
  $('.hm-maps').replaceChildren(...plan.maps.parts.map(map));
  slider.max = String(Math.max(0, state.heads.length - new Set(state.heads.map((h) => h.row)).size));
  slider.value = String(planned());
  const { modes } = plan.maps;
  slider.disabled = !modes.length;
  for (const b of element.querySelectorAll('[data-mode]')) { b.disabled = !modes.includes(b.dataset.mode); b.title = b.disabled ? phrase('notInPlan') : ''; }
  $('.hm-how').replaceChildren(explain('score, effective rank and KS', plan.how));
  $('.hm-at').textContent = plan.maps.curves ? phrase('chooseHead') : phrase('noSpectra');
  plane();
  if (modes.length) return recolourMode('score');
  $('.hm-legend').replaceChildren();
  $('.hm-said').textContent = phrase('noScore');
  $('.hm-back').disabled = $('.hm-use').disabled = true;
}

// The same heads in the plane of effective rank and KS, for plans that looked at both.
function plane() {
  const both = state.plan.maps.modes.includes('erank') && state.plan.maps.modes.includes('ks');
  $('.hm-plane').hidden = !both;
  if (!both) return;
  const median = (values) => { const sorted = [...values].sort((a, b) => a - b); return sorted[Math.floor((sorted.length - 1) / 2)]; };
  const erank = state.heads.map((h) => h.erank), ks = state.heads.map((h) => h.ks), low = 0.9 * Math.min(...erank), wide = Math.max(...erank), high = Math.max(1e-9, ...ks);
  const dots = plot($('.hm-plane svg'), {
    label: `Effective rank against KS of ${state.heads.length} heads; the map above has the same values`,
    x: { from: low, to: wide, name: 'effective rank, of its largest' }, y: { from: 0, to: high, name: 'KS' },
    rules: [{ x: median(erank), look: 'quiet' }, { y: median(ks), look: 'quiet' }],
    notes: [
      { x: low, y: 0.95 * high, text: 'low rank, high KS (as a sink)', look: '' }, { x: wide, y: 0.95 * high, text: 'needed', look: 'end' },
      { x: low, y: 0.02 * high, text: 'redundant', look: '' }, { x: wide, y: 0.02 * high, text: 'high rank, low KS', look: 'end' },
    ],
    dots: state.heads.map((h) => ({ x: h.erank, y: h.ks, look: '', shape: h.part === 'language model' ? 'square' : 'round', title: `${where(h)}: effective rank ${number(h.erank)}, KS ${number(h.ks)}` })),
  });
  dots.forEach((dot, i) => {
    const h = state.heads[i];
    h.dot = dot;
    dot.addEventListener('click', () => choose(h));
    for (const [name, at] of [['pointerenter', true], ['pointerleave', false]]) dot.addEventListener(name, () => { h.cell.classList.toggle('pointed', at); if (at) tell(h); });
  });
}

function map(part) {
  const most = Math.max(...part.layers.map((l) => l.heads)), figure = make('figure', `hm-map${most > FEW ? ' many' : ''}`), grid = make('div');
  figure.append(make('figcaption', '', `${part.part}: ${part.layers.length} layers × ${most} heads`), grid);
  grid.setAttribute('role', 'grid');
  grid.setAttribute('aria-label', `Heads of the ${part.part}. Arrow keys move, Enter shows a head.`);
  for (const layer of part.layers) {
    const row = make('div', 'hm-row'), kept = new Set(layer.kept), name = make('span', '', `layer ${layer.layer}`);
    row.setAttribute('role', 'row');
    name.setAttribute('role', 'rowheader');
    row.append(name);
    for (let head = 0; head < layer.heads; head++) {
      const cell = make('div', 'hm-cell none'), value = (n) => layer[n] ? layer[n][head] : null;
      const h = { part: part.part, layer: layer.layer, head, row: `${part.part} ${layer.layer}`, kept: kept.has(head), cell, score: value('score'), erank: value('erank'), ks: value('ks') };
      cell.setAttribute('role', 'gridcell');
      cell.setAttribute('aria-label', `layer ${h.layer}, head ${head}, ${h.kept ? 'kept' : 'removed'}`);
      cell.tabIndex = head === 0 && layer === part.layers[0] ? 0 : -1;
      cell.addEventListener('click', () => choose(h));
      cell.addEventListener('pointerenter', () => { tell(h); if (h.dot) h.dot.classList.add('pointed'); });
      cell.addEventListener('pointerleave', () => { if (h.dot) h.dot.classList.remove('pointed'); });
      cell.addEventListener('keydown', (e) => keys(e, h));
      state.heads.push(h);
      row.append(cell);
    }
    grid.append(row);
  }
  return figure;
}

function tell(h) { $('.hm-at').textContent = `${where(h)} · score ${number(h.score)} · effective rank ${number(h.erank)} of its largest · KS ${number(h.ks)} · ${h.kept ? 'kept' : 'removed'} in the plan`; }

function focus(h) {
  for (const other of state.heads) if (other.part === h.part) other.cell.tabIndex = other === h ? 0 : -1;
  h.cell.focus();
  tell(h);
}

function choose(h) {
  for (const other of state.heads) {
    other.cell.setAttribute('aria-selected', String(other === h));
    if (other.dot) other.dot.classList.toggle('chosen', other === h);
  }
  focus(h);
  if (state.plan.maps.curves) trigger('curves', { part: h.part, layer: h.layer, head: h.head });
}

function keys(e, h) {
  if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); choose(h); return; }
  const mine = state.heads.filter((o) => o.part === h.part), row = mine.filter((o) => o.layer === h.layer), layers = [...new Set(mine.map((o) => o.layer))];
  const beside = { ArrowRight: 1, ArrowLeft: -1 }[e.key], below = { ArrowDown: 1, ArrowUp: -1 }[e.key];
  let next = null;
  if (beside) next = row[h.head + beside];
  else if (below) next = mine.find((o) => o.layer === layers[layers.indexOf(h.layer) + below] && o.head === Math.min(h.head, row.length - 1));
  else if (e.key === 'Home') next = row[0];
  else if (e.key === 'End') next = row[row.length - 1];
  else return;
  e.preventDefault();
  if (next) focus(next);
}

const mark = radios($('.hm-modes'), (mode) => { if (state.plan) recolourMode(mode); });
slider.addEventListener('input', recolour);
$('.hm-back').addEventListener('click', () => { slider.value = String(planned()); recolourMode('score'); });
$('.hm-use').addEventListener('click', () => trigger('share', { out: 100 * Number(slider.value) / state.heads.length }));
on('plan', open);
