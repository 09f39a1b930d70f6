// Visual tokens in every layer of the language model: the full run behind, the pruned one in front, the stage marked.

const { make, on, define, explain, phrase } = window.prunescope;
const $ = (s) => element.querySelector(s);
define($('header span'), 'visual tokens');
let chart = null, stage = null;

function show(view) {
  chart = view;
  const plot = $('.lc-plot'), top = Math.max(...view.full, 1), layers = view.full.length, tick = layers <= 16 ? 1 : 4;
  plot.replaceChildren();
  const axis = make('div', 'lc-axis');
  view.full.forEach((full, layer) => {
    const bar = make('div', 'lc-bar'), back = make('i', 'full'), front = make('i', 'pruned');
    back.style.height = `${100 * full / top}%`;
    front.style.height = `${100 * view.pruned[layer] / top}%`;
    bar.append(back, front);
    bar.addEventListener('pointerenter', () => { $('.lc-note').textContent = `layer ${layer}: ${view.pruned[layer]} of ${full} visual tokens, and ${view.text} text tokens`; });
    bar.addEventListener('pointerleave', rest);
    plot.append(bar);
    axis.append(make('span', '', layer % tick ? '' : String(layer)));
  });
  plot.setAttribute('aria-label', `Visual tokens entering layers 0 to ${layers - 1}: ${view.pruned.join(', ')}; full: ${view.full[0]} in every layer.`);
  element.querySelector('.lc-axis')?.remove();
  plot.after(axis);
  $('.lc-how').replaceChildren(explain('visual tokens per layer', [phrase('layersHow')]));
  mark();
  rest();
}

function rest() {
  if (!chart) return;
  const mean = chart.pruned.reduce((a, b) => a + b, 0) / chart.pruned.length;
  $('.lc-note').textContent = `mean ${mean.toFixed(1)} per layer, ${chart.pruned[chart.pruned.length - 1]} in the last`;
}

function mark() { [...$('.lc-plot').children].forEach((bar, layer) => bar.classList.toggle('now', stage !== null && layer === stage)); }

on('run', (run) => {
  if (run.chart) show(run.chart);
  if (run.chart !== undefined) element.style.visibility = run.chart ? 'visible' : 'hidden';
});
on('stage', (layer) => { stage = layer; mark(); });
