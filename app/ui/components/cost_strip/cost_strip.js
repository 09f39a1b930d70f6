// Figures of one run. Each says how it came to be: counted, computed, estimated or measured.

const { make, amount, change, on } = window.prunescope;
const $ = (s) => element.querySelector(s);

function figure(name, how, value, more) {
  const box = make('div'), term = make('dt', '', name), data = make('dd', '', value);
  term.append(make('em', how, how));
  if (more) data.append(' ', make('small', '', more));
  box.append(term, data);
  return box;
}

const count = (x) => Number.isInteger(x) ? String(x) : x.toFixed(1);
const time = (x) => x === null || x === undefined ? '–' : x < 10 ? x.toFixed(1) : String(Math.round(x));
function bytes(x) { for (const [unit, size] of [['GB', 2 ** 30], ['MB', 2 ** 20], ['kB', 2 ** 10]]) if (x >= size) return `${(x / size).toFixed(x / size < 10 ? 1 : 0)} ${unit}`; return `${x} B`; }

function show(v) {
  const c = v.counted, e = v.estimated, f = v.measured.full, p = v.measured.pruned, k = v.computed;
  const pruning = p.prune > f.prefill - p.prefill && p.prune > 0 ? 'pruning took longer than it saved here' : '';
  $('.cs-figures').replaceChildren(
    figure('requested / passed on / distinct', 'counted', `${c.requested} / ${c.kept} / ${c.distinct}`, `of ${c.total} visual tokens`),
    figure('mean per layer (input)', 'counted', count(c.average), `of ${c.total}`),
    figure('mean per layer (output)', 'counted', count(c.mean_leaving), `of ${c.total}`),
    figure('prefill FLOPs', 'estimated', change(e.full, e.pruned), `${amount(e.full)} → ${amount(e.pruned)}`),
    ...(e.compensated ? [figure('with caption', 'estimated', change(e.full, e.compensated), `${amount(e.full)} → ${amount(e.compensated)}`)] : []),
    figure('KV cache', 'computed', change(k.kv_full, k.kv_pruned), `${bytes(k.kv_full)} → ${bytes(k.kv_pruned)}`),
    figure('encode', 'measured', `${time(p.encode)} ms`, `full ${time(f.encode)}`),
    figure('prune', 'measured', `${time(p.prune)} ms`, pruning),
    figure('prefill', 'measured', `${time(p.prefill)} ms`, `full ${time(f.prefill)}`),
    figure('decode per token', 'measured', `${time(p.decode)} ms`, `full ${time(f.decode)}`),
  );
  const env = v.environment, text = $('.cs-text'), earlier = v.reused.length ? ` Taken over with its time from an earlier run on the same machine: ${v.reused.join(' and ')}.` : '';
  $('.cs-where').textContent = `(times: once, on ${env.machine}, ${env.device}, ${env.dtype})`;
  text.replaceChildren(
    make('p', '', `Counted: rows for the picture, read off the layers of the pruned run; ${c.text} text tokens come on top. Requested: what the keep ratio says. Passed on: rows that the last layer reads; merged visual tokens count as one, [CLS] as one. Distinct: different visual tokens among them. Mean per layer: rows that a layer really reads, over all layers. Papers count their budgets in different ways, so all are shown.`),
    make('p', '', `Estimated: multiply-adds of the language model's prefill, ${e.formula}. Tower: ${amount(e.tower_full)} full, ${amount(e.tower_pruned)} pruned, not included.${e.compensated ? ' With caption: its tokens, captioner and selector are in it.' : ''}`),
    make('p', '', 'Computed: bytes of keys and values of the prompt, from the model\'s shape and number format.'),
    make('p', '', `Measured: once, not averaged, on ${env.machine} (${env.device}, ${env.dtype}, ${env.threads} threads), torch ${env.torch}, transformers ${env.transformers}, ${env.date}. One measurement on a shared machine is an impression, not a benchmark.${env.recorded_during ? ` While the clock ran, ${env.recorded_during} was recorded, which costs a little in every layer.` : ''}${earlier}`),
  );
}

on('run', ({ cost }) => {
  if (cost) show(cost);
  if (cost !== undefined) element.style.visibility = cost ? 'visible' : 'hidden';
});
