// Questions about the chosen example whose answers are known. A click asks at once.

const list = element.querySelector('.ac-list');

function show(value) {
  element.querySelector('.ac-idea').textContent = value.idea || '';
  list.replaceChildren(...value.questions.map((question) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = question;
    button.addEventListener('click', () => trigger('ask', { question }));
    return button;
  }));
}

watch('value', () => { if (props.value) show(props.value); });
if (props.value) show(props.value);
