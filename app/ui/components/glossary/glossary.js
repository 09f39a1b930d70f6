// The glossary of docs/glossary.md in a dialog, which the link in the header opens. Terms and meanings are text, never markup.

const { make, on, glossary } = window.prunescope;
const dialog = element.querySelector('.gl');

dialog.querySelector('dl').replaceChildren(...Object.entries(glossary).flatMap(([term, meaning]) => [make('dt', '', term), make('dd', '', meaning)]));
dialog.querySelector('.gl-close').addEventListener('click', () => dialog.close());
dialog.addEventListener('click', (e) => { if (e.target === dialog) dialog.close(); }); // on the backdrop
on('glossary', () => dialog.showModal());
