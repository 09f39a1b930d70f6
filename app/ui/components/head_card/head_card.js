// One head: its spectrum, the two cumulative curves whose gap is its KS, and why plain KS would say nothing.

const { plot, on, phrase } = window.prunescope;
const $ = (s) => element.querySelector(s), card = $('.hc');

let shown = null;

function show(v) {
  shown = v;
  card.hidden = false;
  $('.hc-charts').hidden = !v.spectrum;
  $('.hc-attentions').hidden = Boolean(v.problem);
  $('.hc-attentions figure').hidden = !v.attention;
  if (v.attention) {
    $('.hc-attentions img').src = v.attention.picture;
    $('.hc-attentions img').alt = `The picture of Explore, painted by how much ${v.part}, layer ${v.layer}, head ${v.head} attends to every visual token`;
    $('.hc-attentions figcaption').textContent = v.attention.says;
  }
  if (v.problem) { $('.hc-title').textContent = v.problem; $('.hc-note').textContent = ''; return; }
  const n = v.values, value = (x) => x === null ? '–' : x.toFixed(3);
  $('.hc-title').textContent = `${v.part}, layer ${v.layer}, head ${v.head}: ${v.kept ? 'kept' : 'removed'}`;
  $('.hc-note').textContent = `score ${value(n.score)} · effective rank ${value(n.erank)} of its largest · KS ${value(n.ks)}${v.sink ? ` · ${v.sink}` : ''}`;
  if (!v.spectrum) return;
  const { gap } = v, low = Math.min(gap.full, gap.without), high = Math.max(gap.full, gap.without);
  // Both curves end in 1; what matters is where they rise.
  const last = Math.max(gap.at + 1, (v.full.find(([, y], i) => Math.min(y, v.without[i][1]) > 0.95) || [gap.of])[0]), rising = (curve) => curve.filter(([x]) => x <= last);
  const top = Math.max(...v.spectrum.map(([, y]) => y), 1e-9);
  $('.hc-matrix').textContent = `${v.matrix}, singular values as shares`;
  plot($('.hc-spectrum'), {
    label: `${v.n} singular values, the largest holds ${(100 * top).toFixed(1)} % of their sum`,
    x: { from: 1, to: v.n, name: 'direction' }, y: { from: 0, to: top, name: 'share' }, bars: v.spectrum, rules: [{ x: v.k, look: 'quiet' }],
  });
  plot($('.hc-curves'), {
    label: `Cumulative curves of the layer with and without this head; largest gap ${(high - low).toFixed(3)} at direction ${gap.at} of ${gap.of}`,
    x: { from: 1, to: last, name: `largest gap ${(high - low).toFixed(3)} at direction ${gap.at} of ${gap.of}` }, y: { from: 0, to: 1, name: 'share of the sum' },
    lines: [{ points: rising(v.full), look: 'one' }, { points: rising(v.without), look: 'two' }], gap: { x: gap.at, low, high },
  });
  plot($('.hc-pitfall'), {
    label: 'Distance between this spectrum and its own first k values: plain falls as a straight line for every head, mass-weighted follows the spectrum',
    x: { from: 1, to: v.n, name: 'k values kept' }, y: { from: 0, to: 1, name: 'KS' },
    lines: [{ points: v.plain, look: 'two' }, { points: v.cut, look: 'one' }], rules: [{ x: v.k, look: 'quiet' }],
  });
  $('.hc-says').textContent = v.ranked_by === 'mass' ? v.pitfall : `${v.pitfall} ${phrase('plainKs')}`;
}

$('.hc-attention').addEventListener('click', () => { if (shown && !shown.problem) trigger('head_attention', { part: shown.part, layer: shown.layer, head: shown.head }); });
watch('value', () => { if (props.value) show(props.value); });
on('plan', () => { card.hidden = true; });
