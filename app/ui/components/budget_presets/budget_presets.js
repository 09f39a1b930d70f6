// The keep ratio, the budgets of papers, and what each means layer by layer for the chosen method and model.
// Python works the meanings out when method, model, picture or a parameter changes; the slider asks nobody.

const { make, on, define } = window.prunescope;
const $ = (s) => element.querySelector(s);
const state = { view: { total: 0, scale: 0, presets: [], note: '' }, slider: 0, at: null };

function tell() {
  const { total, scale, presets, note } = state.view, { slider, at } = state;
  const tokens = total ? ` = ${Math.max(1, Math.round(slider * total / scale))} of ${total}` : '';
  $('.bp-ratio').textContent = state.view.decided ? '' : `keep ratio ${(100 * slider / scale).toFixed(1)} %${tokens}`;
  for (const [i, button] of [...element.querySelectorAll('button')].entries()) button.setAttribute('aria-pressed', String(presets[i].slider === slider));
  const shown = presets.find((p) => p.slider === (at ?? slider));
  $('.bp-meaning').textContent = shown ? `${shown.count}: ${shown.text}` : note;
}

function show(view) {
  state.view = view;
  state.slider = state.slider || view.slider;
  state.at = null;
  $('.bp-list').replaceChildren(...(view.presets.length ? [make('span', '', 'paper budgets')] : []), ...view.presets.map((p) => {
    const button = make('button', '', String(p.count));
    button.type = 'button';
    button.title = p.text;
    button.addEventListener('click', () => trigger('choose', { slider: p.slider }));
    for (const [name, at] of [['pointerenter', p.slider], ['focus', p.slider], ['pointerleave', null], ['blur', null]]) button.addEventListener(name, () => { state.at = at; tell(); });
    return button;
  }));
  tell();
}

define($('.bp-ratio'), 'keep ratio');
on('count', (slider) => { state.slider = Number(slider); tell(); });
watch('value', () => { if (props.value) show(props.value); });
if (props.value) show(props.value);
