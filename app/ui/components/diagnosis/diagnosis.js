// How the kept set of the run on the page differs from a random one, and what other methods would keep. Python computes
// the figures while the panel is open, and what other methods keep only when the button is pressed.

const { make, on, emit, explain, phrase, plot } = window.prunescope;
const $ = (s) => element.querySelector(s), box = $('.dg');
let source = null, asked = 0;

function ask() {
  if (!source || !box.open) return;
  asked += 1;
  $('.dg-said').textContent = phrase('computing');
  trigger('diagnose', { source, number: asked });
}

function fill(table, names, rows) {
  const head = make('thead'), body = make('tbody'), top = make('tr');
  for (const name of names) { const th = make('th', '', name); th.scope = 'col'; top.append(th); }
  for (const [first, ...cells] of rows) {
    const tr = make('tr'), th = make('th');
    th.scope = 'row';
    th.append(first);
    tr.append(th, ...cells);
    body.append(tr);
  }
  head.append(top);
  table.replaceChildren(head, body);
}

function finding(line) {
  const name = make('span', '', line.name), value = make('td', line.apart ? 'apart' : '', line.value);
  name.append(make('span', 'dg-means', line.means));
  return [name, value, make('td', '', line.chance)];
}

function overlap(o) {
  if (!o.refused) return [o.title, ...[o.kept, o.shared, o.chance, o.jaccard].map((x) => make('td', '', String(x)))];
  const why = make('td', '', o.refused);
  why.colSpan = 4;
  return [o.title, why];
}

function show(view) {
  $('.dg-said').textContent = view.problem || '';
  $('.dg-body').hidden = Boolean(view.problem);
  if (view.problem) return;
  fill($('.dg-findings'), ['figure', 'this run', 'random sets of that size, or the most'], view.lines.map(finding));
  const last = view.rows.length, top = Math.max(...view.rows, view.chance);
  $('.ps-plot').toggleAttribute('hidden', last === 0); // several pictures have no rows in common
  if (last) plot($('.ps-plot'), {
    label: `Keep ratio in rows 1 to ${last}: ${view.rows.map((x) => `${Math.round(100 * x)} %`).join(', ')}`,
    x: { from: 0, to: last + 1, name: 'row, from the top' }, y: { from: 0, to: top, name: 'keep ratio' },
    bars: view.rows.map((y, i) => [i + 1, y]), lines: [{ points: [[0, view.chance], [last + 1, view.chance]], look: 'two' }],
  });
  $('.dg-how').replaceChildren(explain('overlap', view.how));
  if (view.overlaps.length) fill($('.dg-overlaps'), ['method', 'keeps', 'shared', 'by chance', 'Jaccard'], view.overlaps.map(overlap));
  else $('.dg-overlaps').replaceChildren();
}

box.addEventListener('toggle', ask);
on('run', ({ recipe }) => {
  if (recipe === undefined) return;
  source = recipe && recipe.source;
  box.hidden = !source;
  ask();
});
$('.dg-compare').addEventListener('click', () => trigger('overlaps', { source }));

// A comparison belongs to the run it was made for; with another one on the page it comes too late.
watch('value', () => {
  const v = props.value;
  if (v && v.recipe) { if (JSON.stringify(v.made_for) === JSON.stringify(source)) emit('run', { recipe: v.recipe }); } else if (v && v.number === asked) show(v);
});
