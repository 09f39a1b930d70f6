// One bar for every feed-forward matrix: the rank kept, the rank that was asked for, and the break-even rank.

const { make, on } = window.prunescope;
const percent = (x) => `${(100 * Math.max(0, Math.min(1, x))).toFixed(2)}%`;

function bar(m) {
  const box = make('div', m.rank === null && m.fill === 1 ? 'fb-bar full' : 'fb-bar'), fill = make('i'), even = make('b');
  box.setAttribute('aria-hidden', 'true'); // the words beside it say the same
  fill.style.width = percent(m.fill);
  even.style.left = percent(m.break_even / m.most);
  box.append(fill, even);
  if (m.wanted !== null) { const ring = make('u'); ring.style.left = percent(m.wanted / m.most); box.append(ring); }
  return box;
}

function line(m, first) {
  const li = make('li', first ? 'first' : '');
  li.append(make('span', 'fb-name', `${m.layer} ${m.name}`), bar(m), make('span', 'fb-says', `${m.says}, break-even ${m.break_even.toFixed(0)}`));
  return li;
}

on('plan', ({ ranks }) => {
  const parts = [...new Set(ranks.map((m) => m.part))];
  element.querySelector('.fb-parts').replaceChildren(...parts.map((name) => {
    const mine = ranks.filter((m) => m.part === name), box = make('div', 'fb-part'), list = make('ul');
    list.append(...mine.map((m, i) => line(m, i > 0 && mine[i - 1].layer !== m.layer)));
    box.append(make('h4', '', name), list);
    return box;
  }));
});
