// Saves what Python sends as a file; does nothing else.

watch('value', () => { if (props.value?.data) window.prunescope.save(props.value); });
