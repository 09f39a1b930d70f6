// Hands what Python sends of a run to the components that show it.

const { emit, shelf } = window.prunescope;

function pass(value) {
  if (!value) return;
  if (value.example !== undefined) shelf.number = value.example;
  emit('run', value);
  if (value.go) setTimeout(() => document.querySelector('#run').click(), 600); // after the controls have taken the link's values
}

watch('value', () => pass(props.value));
pass(props.value);
