// How every gate moved while it was trained, where the plan has a training; else how to get one.

const { plot, on, phrase } = window.prunescope;
const $ = (s) => element.querySelector(s);

on('plan', ({ gates }) => {
  $('.gc-charts').hidden = !gates;
  $('.gc-none').textContent = gates ? '' : phrase('noGates', { without: props.without });
  $('.gc-recipe').textContent = gates ? gates.recipe : '';
  if (!gates) return;
  const x = { from: gates.steps[0], to: gates.steps[gates.steps.length - 1], name: 'step' }, at = (values) => values.map((y, i) => [gates.steps[i], y]);
  const lines = gates.gates.map((values, i) => ({ points: at(values), look: gates.kept[i] ? 'thin' : 'gone', title: gates.names[i] }));
  const { target, loss, task } = gates.terms;
  if (target) lines.push({ points: at(target.map((t) => 1 - t)), look: 'two' });
  plot($('.gc-gates'), { label: `${gates.gates.length} gates over ${x.to} steps; ${gates.kept.filter(Boolean).length} heads are kept`, x, y: { from: 0, to: 1, name: 'gate' }, lines });
  const most = Math.max(1e-9, ...(loss || []), ...(task || []));
  plot($('.gc-loss'), {
    label: loss ? `Loss from ${loss[0].toFixed(3)} to ${loss[loss.length - 1].toFixed(3)}` : 'No loss was recorded', x, y: { from: 0, to: most, name: 'loss' },
    lines: [...(loss ? [{ points: at(loss), look: 'one' }] : []), ...(task ? [{ points: at(task), look: 'two' }] : [])],
  });
});
