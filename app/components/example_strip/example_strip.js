// Thumbnails of the example pictures. A click asks Python once for the recorded run of that example.

const strip = element.querySelector('.es');

function show(value) {
  strip.replaceChildren(...value.examples.map((example, number) => {
    const button = document.createElement('button'), image = document.createElement('img'), text = document.createElement('span');
    button.type = 'button';
    image.src = example.thumbnail;
    image.alt = example.alt;
    text.textContent = example.title;
    button.setAttribute('aria-pressed', String(number === value.chosen));
    button.append(image, text);
    button.addEventListener('click', () => {
      for (const b of strip.children) b.setAttribute('aria-pressed', String(b === button));
      trigger('pick', { number });
    });
    return button;
  }));
}

watch('value', () => { if (props.value) show(props.value); });
if (props.value) show(props.value);
