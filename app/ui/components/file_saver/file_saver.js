// Save what Python sends as a file.

watch('value', () => { if (props.value?.data) window.prunescope.save(props.value); });
