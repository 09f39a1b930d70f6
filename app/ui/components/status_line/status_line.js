// The status line: what is running, or what went wrong and what to do.

const box = element.querySelector('.sl');

function show(value) {
  if (value.of && value.of !== window.prunescope.shelf.picture) return; // a run that the visitor has left
  box.className = `sl ${value.kind}`;
  box.setAttribute('role', value.kind === 'error' ? 'alert' : 'status');
  box.querySelector('.sl-text').textContent = value.text;
}

if (!props.own) window.prunescope.on('status', show); // `own`: a line that only Python writes
watch('value', () => { if (props.value) show(props.value); });
if (props.value) show(props.value);
