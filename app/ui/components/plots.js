// Small charts, drawn into an `<svg class="ps-plot">` of a component's template. Names and numbers are text, never markup.
window.prunescope.plot = (() => {
  const W = 320, H = 172, LEFT = 36, RIGHT = 10, TOP = 10, BOTTOM = 32;
  const short = (x) => Number.isInteger(x) ? String(x) : Math.abs(x) >= 0.01 ? x.toFixed(2) : x.toPrecision(1);

  // `spec`: x and y {from, to, name}; lines [{points [[x, y]], look}]; bars [[x, y]]; gap {x, low, high}; rules [{x, look}].
  // Rules may have y in place of x; dots [{x, y, look, title}] come back as elements, in their order; `shape` is `square`
  // or a circle; notes [{x, y, text, look}] are words in the plot.
  // Looks are classes: `one` solid blue, `two` dashed orange, `quiet` dotted grey, `gone` thin and dashed.
  function plot(svg, spec) {
    const part = (tag, look, fields, text) => {
      const node = document.createElementNS(svg.namespaceURI, tag);
      node.setAttribute('class', look);
      for (const [key, value] of Object.entries(fields)) node.setAttribute(key, value);
      if (text !== undefined) node.textContent = text;
      return node;
    };
    const px = (v) => LEFT + (v - spec.x.from) / Math.max(1e-9, spec.x.to - spec.x.from) * (W - LEFT - RIGHT);
    const py = (v) => H - BOTTOM - (v - spec.y.from) / Math.max(1e-9, spec.y.to - spec.y.from) * (H - TOP - BOTTOM);
    svg.setAttribute('viewBox', `0 0 ${W} ${H}`);
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', spec.label);
    svg.replaceChildren(
      part('path', 'axis', { d: `M${LEFT} ${TOP}V${H - BOTTOM}H${W - RIGHT}` }),
      part('text', 'end', { x: LEFT - 4, y: TOP + 8 }, short(spec.y.to)),
      part('text', 'end', { x: LEFT - 4, y: H - BOTTOM }, short(spec.y.from)),
      part('text', '', { x: LEFT, y: H - BOTTOM + 13 }, short(spec.x.from)),
      part('text', 'end', { x: W - RIGHT, y: H - BOTTOM + 13 }, short(spec.x.to)),
      part('text', 'name', { x: (LEFT + W - RIGHT) / 2, y: H - 5 }, spec.x.name),
      part('text', 'name', { x: -(TOP + H - BOTTOM) / 2, y: 11, transform: 'rotate(-90)' }, spec.y.name),
    );
    const step = (W - LEFT - RIGHT) / Math.max(1, spec.x.to - spec.x.from);
    for (const [x, y] of spec.bars || []) {
      const wide = Math.max(1, step * 0.72);
      svg.append(part('rect', 'bar', { x: px(x) - wide / 2, y: py(y), width: wide, height: Math.max(0, H - BOTTOM - py(y)) }));
    }
    for (const line of spec.lines || []) {
      const d = line.points.map(([x, y], i) => `${i ? 'L' : 'M'}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join('');
      const path = part('path', `line ${line.look}`, { d });
      if (line.title) path.append(part('title', '', {}, line.title));
      svg.append(path);
    }
    for (const rule of spec.rules || []) svg.append(part('path', `rule ${rule.look}`, { d: rule.y === undefined ? `M${px(rule.x)} ${TOP}V${H - BOTTOM}` : `M${LEFT} ${py(rule.y)}H${W - RIGHT}` }));
    for (const note of spec.notes || []) svg.append(part('text', note.look, { x: px(note.x), y: py(note.y) }, note.text));
    const dots = (spec.dots || []).map((dot) => {
      const node = part('path', `dot ${dot.look}`, { d: `M${px(dot.x) - 3.5} ${py(dot.y)}${dot.shape === 'square' ? 'v-3.5h7v7h-7z' : 'a3.5 3.5 0 1 1 7 0a3.5 3.5 0 1 1 -7 0'}` });
      if (dot.title) node.append(part('title', '', {}, dot.title));
      return node;
    });
    svg.append(...dots);
    if (spec.gap) {
      const x = px(spec.gap.x), [low, high] = [py(spec.gap.low), py(spec.gap.high)];
      svg.append(part('path', 'gap', { d: `M${x - 4} ${low}H${x + 4}M${x - 4} ${high}H${x + 4}M${x} ${low}V${high}` }));
    }
    return dots;
  }
  return plot;
})();
