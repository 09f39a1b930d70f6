// Two answers side by side: streaming text while a run goes on, words with certainty and differences afterwards.
// All text goes through textContent: what a model wrote is never markup.

const $ = (s) => element.querySelector(s);
const WAITING = { idle: 'Press Run to ask.', see: 'The model looks at the picture…', full: 'Answering with the whole picture…', prune: 'Waiting for the full answer…', pruned: 'Answering with the kept pieces…', queue: 'Waiting for its turn…' };

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function word(text, logProb, kind) {
  const span = make('span', 'ap-word'), label = make('span', kind || '', (kind === 'new' ? '+' : kind === 'gone' ? '−' : '') + text);
  span.append(label);
  if (logProb !== undefined) {
    const sure = Math.exp(logProb), bar = make('span', 'sure'), fill = make('i');
    fill.style.width = `${Math.max(4, 100 * sure)}%`;
    bar.append(fill); span.append(bar);
    span.title = `${Math.round(100 * sure)} % sure (log-probability ${logProb.toFixed(3)})`;
  }
  return span;
}

function fill(card, words) { const box = card.querySelector('.ap-text'); box.replaceChildren(...words); }

function pieces(count, total) { return `${count} pieces`; }

// The pruned answer's words in order, with the words it lost between them.
function compared(view) {
  const sure = view.pruned.words.slice();
  return view.diff.map((d) => d.fate === 'gone' ? word(d.text, undefined, 'gone') : word(d.text, sure.length ? sure.shift().log_prob : undefined, d.fate === 'new' ? 'new' : ''));
}

function waiting(card, text, phase) { card.querySelector('.ap-text').replaceChildren(text ? make('span', '', text) : make('span', 'ap-waiting', WAITING[phase] || '')); }

function show(view) {
  const full = $('.full'), pruned = $('.pruned'), done = view.state === 'done';
  $('.ap-question').textContent = view.question || '';
  full.querySelector('.ap-count').textContent = done ? pieces(view.full.tokens) : '';
  pruned.querySelector('.ap-count').textContent = done ? pieces(view.pruned.tokens) : '';
  if (done) {
    fill(full, view.full.words.length ? view.full.words.map((w) => word(w.text, w.log_prob)) : [make('span', 'ap-waiting', '(the model said nothing)')]);
    fill(pruned, view.pruned.words.length || view.diff.length ? compared(view) : [make('span', 'ap-waiting', '(the model said nothing)')]);
  } else {
    const phase = view.phase || 'idle';
    waiting(full, view.full_text, phase === 'prune' || phase === 'pruned' ? '' : phase);
    waiting(pruned, view.pruned_text, phase === 'full' || phase === 'see' ? 'prune' : phase);
  }
  $('.ap-chip').textContent = done ? { 'Same': '✓ Same', 'Wording differs': '~ Wording differs', 'Differs': '≠ Differs' }[view.verdict] : '';
  $('.ap-parts').textContent = done && view.parts_at ? `parts at word ${view.parts_at}` : '';
  $('.ap-verdict').style.visibility = done ? 'visible' : 'hidden';
  $('.ap-verdict p').textContent = view.rule || '';
  const long = (a) => a && a.stopped === 'length';
  const notes = [...(view.notes || [])];
  if (done && (long(view.full) || long(view.pruned))) notes.push('An answer was cut at the limit of new words.');
  $('.ap-notes').replaceChildren(...notes.map((n) => make('li', '', n)));
}

// A run that stops or fails leaves no trace: what stood here before it comes back.
let lasting = { state: 'idle' };
function receive(value) {
  if (!value) return;
  if (value.state !== 'restore' && value.state !== 'running') lasting = value;
  show(value.state === 'restore' ? lasting : value);
}
watch('value', () => receive(props.value));
receive(props.value);
