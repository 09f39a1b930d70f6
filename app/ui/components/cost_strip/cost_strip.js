// Cost figures of one run. Each says how it was obtained: counted, computed, estimated or measured.

const { make, amount, change, define, on, phrase } = window.prunescope;
const $ = (s) => element.querySelector(s);

function figure(name, how, value, more) {
  const box = make('div'), term = define(make('dt', '', name), name), data = make('dd', '', value);
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
  const pruning = p.prune > f.prefill - p.prefill && p.prune > 0 ? phrase('noGain') : '';
  $('.cs-figures').replaceChildren(
    figure('requested / passed on / distinct', 'counted', `${c.requested} / ${c.kept} / ${c.distinct}`, `of ${c.total}`),
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
  const env = v.environment, text = $('.cs-text'), earlier = v.reused.length ? phrase('reused', { what: v.reused.join(' and ') }) : '';
  $('.cs-where').textContent = `(times: once, on ${env.machine}, ${env.device}, ${env.dtype})`;
  text.replaceChildren(
    make('p', '', phrase('countedHow', c)),
    make('p', '', phrase('estimatedHow', { formula: e.formula, full: amount(e.tower_full), pruned: amount(e.tower_pruned), caption: e.compensated ? phrase('captionHow') : '' })),
    make('p', '', phrase('computedHow')),
    make('p', '', phrase('measuredHow', { ...env, recorded: env.recorded_during ? phrase('recordedDuring', { what: env.recorded_during }) : '', earlier })),
  );
}

on('run', ({ cost }) => {
  if (cost) show(cost);
  if (cost !== undefined) element.style.visibility = cost ? 'visible' : 'hidden';
});
