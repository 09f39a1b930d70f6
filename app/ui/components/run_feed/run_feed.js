// Pass what Python sends of a run to the components that show it.

const { receive } = window.prunescope;
watch('value', () => { if (props.value) receive(props.value); });
if (props.value) receive(props.value);
