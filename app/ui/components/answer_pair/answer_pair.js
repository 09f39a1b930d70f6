// The answers side by side, a third one where a caption was added: streaming text during a run, words with probabilities and differences afterwards.
// All text goes through textContent: what a model wrote is never markup.

const { make, on, emit, explain, phrase } = window.prunescope;
const $ = (s) => element.querySelector(s);
const WAITING = new Set(['idle', 'encode', 'full', 'prune', 'pruned', 'compensate', 'compensated']); // phases with a sentence, `waiting.<phase>`
const CHIPS = { Same: '✓ Same', 'Wording differs': '~ Wording differs', Differs: '≠ Differs' };
const SILENT = phrase('silent');

// A word with its certainty. Hovering or focusing it shows on the canvas what it attends to, in that answer's run.
function word(text, logProb, fate, answer, index, again) {
  const span = make('span', 'ap-word');
  if (fate !== 'same') span.append(make('span', 'ap-unseen', fate === 'new' ? 'new: ' : 'gone: '));
  span.append(make('span', `${fate === 'same' ? '' : fate}${again ? ' ps-again' : ''}`, text));
  if (logProb !== undefined) {
    const sure = Math.exp(logProb), bar = make('span', 'sure'), fill = make('i');
    fill.style.width = `${Math.max(4, 100 * sure)}%`;
    bar.append(fill); span.append(bar);
    span.title = `${Math.round(100 * sure)} % sure (log-probability ${logProb.toFixed(3)})`;
  }
  span.tabIndex = 0;
  span.dataset.word = `${answer}:${index}`;
  const point = () => emit('word', { answer, index, text, sure: logProb === undefined ? null : Math.exp(logProb) }), leave = () => emit('word', null);
  span.addEventListener('pointerenter', point);
  span.addEventListener('pointerleave', leave);
  span.addEventListener('focus', point);
  span.addEventListener('blur', leave);
  return span;
}

// An answer's words in order, with the words it lost against the full one between them.
function compared(diff, words, name) {
  let mine = 0, theirs = 0;
  const found = diff.map((d) => {
    if (d.fate === 'gone') return word(d.text, undefined, 'gone', 'full', theirs++);
    if (d.fate === 'same') theirs++;
    const w = words[mine];
    return word(d.text, w && w.log_prob, d.fate, name, mine++, d.again);
  });
  return found.length ? found : [make('span', 'ap-waiting', SILENT)];
}

function waiting(card, text, phase) { card.querySelector('.ap-text').replaceChildren(text ? make('span', '', text) : make('span', 'ap-waiting', WAITING.has(phase) ? phrase(`waiting.${phase}`) : '')); }

// The answer with a caption; its card is there only where a run has one.
function third(card, view, done, phase) {
  const found = done ? view.compensated : view.compensated_text;
  card.hidden = found === undefined || found === null;
  $('.ap-again-key').hidden = card.hidden;
  $('.ap-compensated-verdict').textContent = !card.hidden && done ? `with caption: ${CHIPS[found.verdict]}` : '';
  if (card.hidden) return;
  card.querySelector('.ap-count').textContent = done ? `${found.visual_tokens} visual tokens${found.tokens ? ` + ${found.tokens} of the caption` : ''}` : '';
  if (done) card.querySelector('.ap-text').replaceChildren(...compared(found.diff, found.words, 'compensated'));
  else waiting(card, found, phase === 'compensate' ? phase : 'compensated');
}

function show(view) {
  const full = $('.full'), pruned = $('.pruned'), compensated = $('.compensated'), done = view.state === 'done', phase = view.phase || 'idle';
  $('.ap-question').textContent = view.question || '';
  full.querySelector('.ap-count').textContent = done ? `${view.full.visual_tokens} visual tokens` : '';
  pruned.querySelector('.ap-count').textContent = done ? [`${view.pruned.visual_tokens} visual tokens`, ...(view.weights ? [view.weights] : [])].join(' · ') : '';
  if (done) {
    const words = view.full.words.map((w, i) => word(w.text, w.log_prob, 'same', 'full', i));
    full.querySelector('.ap-text').replaceChildren(...(words.length ? words : [make('span', 'ap-waiting', SILENT)]));
    pruned.querySelector('.ap-text').replaceChildren(...compared(view.diff, view.pruned.words, 'pruned'));
  } else {
    waiting(full, view.full_text, phase === 'encode' || phase === 'full' || phase === 'idle' ? phase : '');
    waiting(pruned, view.pruned_text, phase === 'full' || phase === 'encode' ? 'prune' : phase === 'compensate' ? '' : phase);
  }
  third(compensated, view, done, phase);
  $('.ap-chip').textContent = done ? CHIPS[view.verdict] : '';
  $('.ap-parts').textContent = done ? [view.parts_at ? `parts at word ${view.parts_at}` : '', view.truth ? `correct answer: ${view.truth}` : ''].filter(Boolean).join(' · ') : '';
  $('.ap-verdict').style.visibility = done ? 'visible' : 'hidden';
  $('.ap-how').replaceChildren(...(done ? [explain('verdict, certainty and attention', view.how)] : []));
  const cut = done && [view.full, view.pruned, view.compensated].some((a) => a && a.stopped === 'length');
  $('.ap-notes').replaceChildren(...[...(view.notes || []), ...(cut ? [phrase('cut')] : [])].map((n) => make('li', '', n)));
}

// A run that stops or fails leaves no trace: what stood here before it comes back.
let lasting = { state: 'idle' };
on('run', ({ answers }) => {
  if (!answers) return;
  if (answers.state !== 'restore' && answers.state !== 'running') lasting = answers;
  show(answers.state === 'restore' ? lasting : answers);
});
// Random pruning with many seeds: the control beside every claim.
const RANDOM_HOW = [phrase('randomHow')];
$('.ap-random-how').append(explain('random pruning', RANDOM_HOW));
let source = null, counted = null;
on('run', ({ cost }) => { if (cost !== undefined) counted = cost && cost.counted; });
on('run', ({ recipe }) => { if (recipe !== undefined) { source = recipe && recipe.source; $('.ap-dice').disabled = !source; } });
$('.ap-dice').addEventListener('click', () => trigger('dice', { source }));
on('run', ({ random, answers }) => {
  if (random === undefined && !(answers && answers.state === 'idle')) return;
  const parts = [];
  if (random) {
    parts.push(`Random, ${random.seeds} seeds: same answer in ${random.same}`);
    // Older bands do not say it: they were drawn before the language model, so every layer reads what was asked for.
    const average = random.average ?? counted?.requested;
    if (counted && Math.abs(average - counted.average) >= 0.5) parts.push(`not the same work: random has ${average.toFixed(1)} visual tokens per layer on average, this run ${counted.average.toFixed(1)}`);
    if (random.answer_region) { const [least, middle, most, of] = random.answer_region; parts.push(`answer region kept ${least}–${most} (median ${middle}) of ${of}`); }
  }
  $('.ap-random-text').textContent = parts.join(' · ');
  $('.ap-random-text').title = random ? Object.entries(random.answers).map(([text, n]) => `${n}× ${text}`).join('\n') : '';
  $('.ap-dice').hidden = Boolean(random);
});
on('token', (token) => {
  for (const lit of element.querySelectorAll('.lit')) lit.classList.remove('lit');
  if (token) for (const answer of ['full', 'pruned', 'compensated']) element.querySelector(`[data-word="${answer}:${token[answer]}"]`)?.classList.add('lit');
});
// The signal of ONLY: a bar for every head of the first layer, hollow where ONLY would silence it.
let ratios = {};
on('run', ({ canvas }) => {
  if (canvas === undefined) return;
  ratios = Object.fromEntries(Object.entries(canvas?.attention || {}).map(([name, a]) => [name, a?.ratios]));
  $('.ap-only').hidden = !ratios.full;
  heads(null);
});
function heads(word) {
  const mine = word && ratios[word.answer]?.[word.index], mean = mine && mine.reduce((a, b) => a + b, 0) / mine.length, most = mine && Math.max(...mine, 1e-6);
  $('.ap-only-text').textContent = mine ? `text / picture entropy per head (signal of ONLY): mean ${mean.toFixed(2)}, ${mine.filter((r) => r < mean).length} of ${mine.length} heads below it` : phrase('onlyHint');
  $('.ap-heads').replaceChildren(...(mine || []).map((r) => { const bar = make('i', r < mean ? 'below' : ''); bar.style.height = `${Math.max(2, 20 * r / most)}px`; return bar; }));
}
on('word', heads);
