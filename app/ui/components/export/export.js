// Export the run on the page as a file, or as the link, command or Python that repeats it. Python makes the files.

const { on, phrase } = window.prunescope;
const $ = (s) => element.querySelector(s), buttons = [...element.querySelectorAll('button')];
let recipe = null, stop = 0, asked = 0;

function say(text) { $('.ta-said').textContent = text; }

// While a file is being made no other one is asked for.
let making = false;
function enable() {
  for (const b of buttons) b.disabled = !recipe || (b.dataset.kind && making) || (b.dataset.copy === 'link' && !recipe.query);
  const link = $('[data-copy=link]');
  link.title = recipe && !recipe.query ? phrase('noLink') : '';
}

on('run', (run) => {
  if (run.recipe !== undefined) { recipe = run.recipe; $('.ta-text').hidden = true; say(''); }
  enable();
});
on('stop', (number) => { stop = number; });

function want(kind) {
  asked += 1;
  making = true;
  enable();
  say(phrase('making'));
  trigger('take', { kind, stop, source: recipe.source, dark: document.body.classList.contains('dark'), number: asked });
}

async function copy(what) {
  const text = what === 'link' ? `${location.origin}${location.pathname}?${recipe.query}` : recipe[what];
  $('.ta-text').textContent = text;
  $('.ta-text').hidden = false;
  try { await navigator.clipboard.writeText(text); say(phrase('copied')); } catch { say(phrase('copyYourself')); }
}

for (const b of buttons) b.addEventListener('click', () => (b.dataset.copy ? copy(b.dataset.copy) : want(b.dataset.kind)));

function save(parcel) {
  if (!parcel || parcel.number !== asked) return;
  making = false;
  enable();
  if (parcel.problem) { say(parcel.problem); return; }
  window.prunescope.save(parcel);
  say(phrase('saved', parcel));
}

watch('value', () => save(props.value));
enable();
