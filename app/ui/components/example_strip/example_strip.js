// Thumbnails of the example pictures. A click asks Python once for the recorded run of that example; all other recorded
// runs of it follow in the background, so that changing method or keep ratio needs no request.

const { on, shelf, takeDown } = window.prunescope;
shelf.fetch = (number) => server.recorded(number).then((text) => JSON.parse(text));
const strip = element.querySelector('.es');

function show(value) {
  strip.replaceChildren(...value.examples.map((example, number) => {
    const button = document.createElement('button'), image = document.createElement('img'), text = document.createElement('span');
    button.type = 'button';
    image.src = example.thumbnail;
    image.alt = example.alt;
    text.textContent = example.title;
    button.setAttribute('aria-pressed', 'false');
    button.append(image, text);
    button.addEventListener('click', () => trigger('pick', { number }));
    return button;
  }));
}

watch('value', () => { if (props.value) show(props.value); });
if (props.value) show(props.value);
on('run', ({ example }) => {
  if (example === undefined) return;
  [...strip.children].forEach((button, number) => button.setAttribute('aria-pressed', String(number === example)));
  if (example !== null) setTimeout(() => takeDown(example), 1200); // after the picture is painted
});
