// Helpers that all components share, and the topics by which they send each other events.
// Topics: `run` (everything that belongs to one run), `stage` (a layer or null), `word` ({answer, index} or null),
// `token` (a visual token or null), `stop` (number of a stop), `count` (value of the slider), `status` ({kind, text}), `plan` (a complete structural plan), `theme` (light or dark was switched), `glossary` (open it).
// Nothing here asks the server.
window.prunescope = window.prunescope || (() => {
  const listeners = {}, last = {}, messages = /* BROWSER */ {}, glossary = /* GLOSSARY */ {};

  // A component that subscribes to `run` or `plan` late gets what is on the page.
  function on(topic, listener) {
    (listeners[topic] = listeners[topic] || []).push(listener);
    if (last[topic]) listener(last[topic]);
  }

  function emit(topic, value) {
    if (topic === 'run') last.run = { ...last.run, ...value };
    if (topic === 'plan') last.plan = value;
    for (const listener of listeners[topic] || []) {
      try { listener(value); } catch (error) { console.error(topic, error); }
    }
  }

  // An element with a class and, as text only, what it says.
  function make(tag, name, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // A sentence of `app/messages.py` by its name; what stands in braces is replaced by `values`.
  function phrase(name, values = {}) { return messages[name].replace(/\{(\w+)\}/g, (_, key) => values[key]); }

  // The meaning of a term as the tooltip of a node, where the glossary has it; of plurals too.
  function define(node, term) {
    const known = Object.keys(glossary).find((name) => [name, `${name}s`].includes(term));
    if (known) node.title = glossary[known];
    return node;
  }

  function bytes(text, Type) {
    const raw = atob(text), array = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) array[i] = raw.charCodeAt(i);
    return new Type(array.buffer);
  }

  // A file that Python made ({name, type, data in base64}), saved by the browser.
  function save(file) {
    const link = document.createElement('a'), url = URL.createObjectURL(new Blob([bytes(file.data, Uint8Array)], { type: file.type }));
    link.href = url;
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  // Buttons of which one is chosen, as radio buttons: `choose(mode, focus)` is called for a click or an arrow key.
  function radios(box, choose) {
    const all = () => [...box.querySelectorAll('[data-mode]')].filter((b) => !b.disabled);
    box.addEventListener('click', (e) => { const mode = e.target.dataset.mode; if (mode) choose(mode); });
    box.addEventListener('keydown', (e) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key], open = all();
      if (!step || !open.length) return;
      e.preventDefault();
      const next = open[(open.indexOf(e.target) + step + open.length) % open.length];
      choose(next.dataset.mode);
      next.focus();
    });
    return (mode) => { for (const b of box.querySelectorAll('[data-mode]')) { const chosen = b.dataset.mode === mode; b.setAttribute('aria-checked', String(chosen)); b.tabIndex = chosen ? 0 : -1; } };
  }

  // Amounts as people read them.
  function amount(x) { for (const [unit, size] of [['T', 1e12], ['G', 1e9], ['M', 1e6], ['k', 1e3]]) if (x >= size) return `${(x / size).toFixed(2)} ${unit}`; return String(Math.round(x)); }
  function change(before, after) { const p = Math.round(100 * (after / before - 1)); return p === 0 ? '±0 %' : `${p > 0 ? '+' : '−'}${Math.abs(p)} %`; }

  // An "i" that opens a short explanation: how was this computed?
  function explain(label, sentences) {
    const box = make('details', 'ps-i'), mark = make('summary', '', 'i'), text = make('div', 'ps-i-text');
    text.tabIndex = -1; // so that a click into the text keeps it open, and the text can be copied
    mark.setAttribute('aria-label', `How is this computed? ${label}`);
    for (const s of sentences) text.append(make('p', '', s));
    box.append(mark, text);
    box.addEventListener('keydown', (e) => { if (e.key === 'Escape') box.open = false; });
    box.addEventListener('focusout', (e) => { if (!box.contains(e.relatedTarget)) box.open = false; });
    return box;
  }

  // ---- recorded runs: changing method or keep ratio shows the nearest recorded one at once ---------------------------
  // `number` and `picture` say what the page is about; `turn` grows whenever something newer is to be shown; `live` is
  // what the live run on the page was asked: the change of a control may be heard after the run that it was made for.
  const shelf = { number: 0, picture: '', turn: 0, go: false, live: null, bundles: new Map(), fetch: null };

  // The runs recorded for an example, asked for once; a failed request may be made again.
  function takeDown(number) {
    if (!shelf.bundles.has(number) && shelf.fetch && number !== null) {
      shelf.bundles.set(number, shelf.fetch(number).catch(() => { shelf.bundles.delete(number); }));
    }
    return shelf.bundles.get(number);
  }

  async function choose(method, count, question) {
    const { live } = shelf;
    if (live && live.method === method && Number(live.count) === Number(count) && live.question === question) return;
    const mine = ++shelf.turn, bundle = shelf.number === null ? null : await takeDown(shelf.number);
    if (mine !== shelf.turn || !bundle || question.trim().toLowerCase() !== bundle.question.toLowerCase()) return;
    const runs = bundle.runs[method];
    if (!runs) { emit('status', { kind: 'idle', text: phrase('noRecording') }); return; }
    const stops = Object.keys(runs).map(Number), near = stops.reduce((a, b) => Math.abs(b - count) < Math.abs(a - count) ? b : a);
    const run = runs[near], total = run.canvas.n_tokens;
    shelf.live = null;
    emit('run', { ...run, canvas: { ...run.canvas, pictures: [bundle.picture] } });
    const name = near === Number(count) ? 'recorded' : 'recordedNear';
    emit('status', { kind: 'idle', text: phrase(name, { near, total, count }) });
  }

  // What Python sends of a run. What belongs to another picture than the one on the page comes too late.
  function receive(value) {
    if (value.opens) { shelf.picture = value.opens; shelf.number = value.example; }
    if (value.of && value.of !== shelf.picture) return;
    shelf.turn += 1;
    if (value.live || value.opens) shelf.live = value.live || null;
    shelf.go = shelf.go || Boolean(value.go);
    emit('run', value);
  }

  // A link's run begins when the page has taken all of the link's values.
  function begin() {
    if (shelf.go) setTimeout(() => document.querySelector('#run').click(), 60);
    shelf.go = false;
  }

  return { on, emit, make, phrase, define, glossary, bytes, save, radios, amount, change, explain, choose, takeDown, receive, begin, shelf };
})();
