// Hands what Python sends of a run to the components that show it.

const { emit, shelf } = window.prunescope;

function pass(value) {
  if (!value) return;
  if (value.example !== undefined) shelf.number = value.example;
  emit('run', value);
}

watch('value', () => pass(props.value));
pass(props.value);
