// Thumbnails of the example pictures. A click asks Python once for the recorded run of that example; all other recorded
// runs of it follow in the background, so that changing method or share needs no request.

const { shelf, takeDown } = window.prunescope;
shelf.fetch = (number) => server.recorded(number).then((text) => JSON.parse(text));
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
      setTimeout(() => takeDown(number), 400);
    });
    return button;
  }));
}

setTimeout(() => takeDown(0), 1200); // after the first paint
watch('value', () => { if (props.value) show(props.value); });
if (props.value) show(props.value);
