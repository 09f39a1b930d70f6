// Compensation of one run: candidates, the assembled prompt, the price, and the caption to change and ask again with.
// A caption is a model's or a visitor's text: everything goes through textContent.

const { make, amount, on, explain, phrase, plot, radios } = window.prunescope;
const $ = (s) => element.querySelector(s);
const MARKS = { closest: '+ closest', farthest: '− farthest' };

function fact(name, value) {
  const box = make('span', 'ch-fact', `${name} `);
  box.append(make('b', '', value));
  return box;
}

const short = (x) => String(Number(x.toPrecision(2)));

// Words, each marked where it is in the answer too.
function marked(words) {
  return words.flatMap((w) => [make('span', w.again ? 'ps-again' : '', w.text), ' ']);
}

function card(c, number, view) {
  const item = make('li', c.chosen ? 'ch-card chosen' : 'ch-card'), head = make('header'), facts = make('p', 'ch-facts'), text = make('p', 'ch-text');
  head.append(make('strong', '', view.by_hand ? 'By hand' : `Candidate ${number + 1}`));
  if (c.chosen) head.append(make('span', 'ch-badge', view.inserted ? '✓ chosen' : '✓ chosen, not inserted'));
  if (c.mark) head.append(make('span', 'ch-badge quiet', MARKS[c.mark]));
  text.append(...(c.words.length ? marked(c.words) : [make('i', '', '(empty)')]));
  if (c.log_prob !== null) facts.append(fact('log-probability', `${c.log_prob.toFixed(2)}${c.mean === null ? '' : ` (mean ${c.mean.toFixed(2)})`}`));
  if (c.probability !== null) facts.append(fact('selector', `${(100 * c.probability).toFixed(1)} %`));
  if (c.kl !== null) facts.append(fact('KL', short(c.kl)));
  item.append(head, text, facts);
  return item;
}


let priced = null;

function cost(given, byHand) {
  priced = () => cost(given, byHand);
  const tower = $('.ch-tower input').checked;
  const price = tower ? { ...given, full: given.full + given.tower[0], parts: [...given.parts, ['vision tower', given.tower[1]]] } : given;
  const total = price.parts.reduce((sum, [, x]) => sum + x, 0), wide = Math.max(price.full, total);
  $('.ch-price').textContent = price.text;
  $('.ch-bar').replaceChildren(...price.parts.map(([, x], i) => { const part = make('i', `part-${i}`); part.style.width = `${100 * x / wide}%`; return part; }));
  $('.ch-bar').setAttribute('aria-label', `Estimated prefill: ${price.parts.map(([name, x]) => `${name} ${amount(x)}`).join(', ')}; with the full picture ${amount(price.full)}.`);
  const rows = price.parts.map(([name, x], i) => x > 0 && [`part-${i}`, name, name === "caption's tokens" ? `${amount(x)}, ${price.tokens} tokens` : amount(x)]).filter(Boolean);
  rows.push(['part-full', tower ? 'full picture, with its tower' : 'full picture', amount(price.full)]);
  if (!byHand) rows.push(['', 'writing and choosing (measured once)', `${price.ms < 10 ? price.ms.toFixed(1) : Math.round(price.ms)} ms`]);
  $('.ch-parts').replaceChildren(...rows.map(([key, name, value]) => { const row = make('div'), term = make('dt', '', name); if (key) term.prepend(make('i', key)); row.append(term, make('dd', '', value)); return row; }));
}

// ---- next-token probabilities of the three runs, and attention; shown where KL was measured -------------------------

let places = [];

function share(x) {
  const cell = make('td'), bar = make('i');
  bar.style.width = `${100 * x}%`;
  bar.setAttribute('aria-hidden', 'true');
  cell.append(bar, make('span', '', x > 0 && x < 0.001 ? '<0.1 %' : `${(100 * x).toFixed(1)} %`));
  return cell;
}

function place(number) {
  const found = places[number];
  markPlace(String(number));
  if (!found) return;
  $('.ch-kl').textContent = phrase('klHere', { pruned: short(found.kl[0]), caption: short(found.kl[1]) });
  $('.ch-next tbody').replaceChildren(...found.rows.map(([token, ...shares]) => {
    const row = make('tr'), head = make('th', '', token);
    head.scope = 'row';
    row.append(head, ...shares.map(share));
    return row;
  }));
}

function attention(found) {
  $('.ch-attention').hidden = !found;
  if (!found) return;
  const line = (values, look) => ({ points: values.map((y, i) => [i, y]), look }), last = found.caption.length - 1;
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length, percent = (x) => `${(100 * x).toFixed(1)} %`;
  const each = (values, counts) => percent(mean(values.map((x, i) => x / Math.max(1, counts[i]))));
  plot($('.ch-attention svg'), {
    label: `Share of the attention that the caption gets, from ${percent(found.caption[0])} in the first layer to ${percent(found.caption[last])} in the last; the picture ${percent(found.picture[0])} to ${percent(found.picture[last])}`,
    x: { from: 0, to: last, name: 'layer of the language model' }, y: { from: 0, to: Math.max(0.01, ...found.caption, ...found.picture), name: 'share of the attention' },
    lines: [line(found.caption, 'one'), line(found.picture, 'two')],
  });
  $('.ch-shares').textContent = phrase('attentionShares', { caption: percent(mean(found.caption)), perToken: each(found.caption, found.rows.map(() => found.tokens)), picture: percent(mean(found.picture)), perVisual: each(found.picture, found.rows) });
}

function measured(view) {
  places = view.next_words;
  $('.ch-measured').hidden = !places.length && !view.attention;
  $('.ch-next').hidden = !places.length;
  $('.ch-places').replaceChildren(...places.map((p, i) => {
    const button = make('button', '', p.word);
    button.type = 'button';
    button.dataset.mode = String(i);
    button.setAttribute('role', 'radio');
    button.setAttribute('aria-label', `place ${i + 1}: ${p.word}`);
    return button;
  }));
  place(0);
  attention(view.attention);
}

const markPlace = radios($('.ch-places'), (mode) => place(Number(mode)));

function show(view) {
  $('.ch').hidden = !view;
  $('.ch-live').textContent = view ? view.sentences.join(' ') : '';
  if (!view) return;
  $('.ch-who').textContent = view.title;
  $('.ch-how').replaceChildren(explain('captions and their price', view.how));
  const kl = view.kl_pruned === null ? [] : [phrase('klWithout', { kl: short(view.kl_pruned) })];
  $('.ch-said').replaceChildren(...[...view.sentences, ...kl].map((s) => make('li', '', s)));
  $('.ch-cards').replaceChildren(...view.candidates.map((c, i) => card(c, i, view)));
  const inserted = view.prompt.inserted ? [make('mark', '', view.prompt.inserted)] : [];
  $('.ch-prompt').replaceChildren(view.prompt.before, ...inserted, view.prompt.behind);
  $('#ch-caption').value = view.caption;
  cost(view.price, view.by_hand);
  measured(view);
}

$('.ch-tower input').addEventListener('change', () => { if (priced) priced(); });
on('run', ({ compensation }) => { if (compensation !== undefined) show(compensation); });
$('.ch-edit').addEventListener('submit', (e) => { e.preventDefault(); trigger('again', { caption: $('#ch-caption').value }); });
