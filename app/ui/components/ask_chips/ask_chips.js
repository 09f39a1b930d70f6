// Questions about the chosen example whose answers are known: a click asks at once. And runs that were recorded of it
// with more than a token pruner: a click shows them.

const { make } = window.prunescope;
const list = element.querySelector('.ac-list');

function chip(text, look, act) {
  const button = make('button', look, text);
  button.type = 'button';
  button.addEventListener('click', act);
  return button;
}

function show(value) {
  element.querySelector('.ac-idea').textContent = value.idea || '';
  const recorded = (value.more || []).map(({ name, title }) => chip(title, 'more', () => trigger('more', { name })));
  list.replaceChildren(...value.questions.map((question) => chip(question, '', () => trigger('ask', { question }))), ...recorded);
}

watch('value', () => { if (props.value) show(props.value); });
if (props.value) show(props.value);
