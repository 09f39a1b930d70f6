// Decode the arrays of a run and paint them on its picture. Functions of a `scene`; no requests.
//
// A scene is {boxes, stops, photo, frame, width, height, opacity}: boxes in pixels of the original picture,
// `frame` [x0, y0, x1, y1] the part of the picture that fills the canvas of `width` x `height` device pixels.
window.prunescope.drawing = (() => {
  const GONE = 0, DROPPED = 1, MERGED = 2, KEPT = 3;
  const CIVIDIS = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]];
  const REASONS = 6, NO_REASON = 255; // colours `reason-0` to `reason-5`
  const { bytes, emit } = window.prunescope;

  // Colours come from `viz/theme.py` as CSS variables; they are read once, and again after light or dark is switched.
  const colours = new Map();
  let watched = false;

  function colour(name) {
    if (!watched) {
      watched = true;
      new MutationObserver(() => { colours.clear(); emit('theme', document.body.classList.contains('dark')); }).observe(document.body, { attributes: true, attributeFilter: ['class'] });
    }
    if (!colours.has(name)) colours.set(name, getComputedStyle(document.body).getPropertyValue(`--ps-${name}`).trim());
    return colours.get(name);
  }
  const reason = (number) => colour(`reason-${number % REASONS}`);

  // ---- reading ---------------------------------------------------------------------------------------------------

  // Tiles that are not `shown` have their boxes at NaN: a canvas draws nothing there, and nothing is found there.
  function boxesOf(layout, shown) {
    const boxes = [];
    layout.tiles.forEach((tile, number) => {
      const [rows, cols] = tile.grid_hw, box = shown.includes(number) ? tile.box_xyxy : [NaN, NaN, NaN, NaN];
      const [x0, y0, x1, y1] = box, w = (x1 - x0) / cols, h = (y1 - y0) / rows;
      for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) boxes.push({ x: x0 + c * w, y: y0 + r * h, w, h, row: r, col: c, rows, cols, tile: number });
    });
    return boxes;
  }

  function ranksOf(score) {
    const order = [...score.keys()].filter((i) => !Number.isNaN(score[i])).sort((a, b) => score[b] - score[a] || a - b), rank = new Int32Array(score.length).fill(-1);
    order.forEach((token, place) => { rank[token] = place + 1; });
    return { rank, of: order.length };
  }

  function stopsOf(view) {
    return view.stops.map((s) => {
      const score = s.score ? bytes(s.score, Float32Array) : null;
      const why = s.why ? { names: s.why.names, of: bytes(s.why.of, Uint8Array) } : null;
      return { ...s, why, fate: bytes(s.fate, Uint8Array), score, ranks: score ? ranksOf(score) : null, into: s.merged_into ? bytes(s.merged_into, Int32Array) : null };
    });
  }

  // What a word attends to: weights relative to its strongest token, and the share of attention that the picture gets.
  function attentionOf(view) {
    const read = (a, n) => a && { shares: a.shares, nearest: a.nearest, words: a.shares.map((_, i) => bytes(a.weights, Uint8Array).subarray(i * n, (i + 1) * n)) };
    return Object.fromEntries(Object.entries(view.attention || {}).map(([name, a]) => [name, read(a, view.n_tokens)]));
  }

  // What became of a token up to a stop: its fate, the stop that decided it, and the token in which it lives on (or -1).
  // A token that was merged into another shares that one's fate: it is dropped with it.
  function fateAt(stops, token, stop) {
    let at = token, fate = KEPT, decided = 0;
    for (let s = 1; s <= stop; s++) {
      const now = stops[s].fate[at];
      if (now === DROPPED) return { fate: DROPPED, stop: s, into: -1 };
      if (now === MERGED) { at = stops[s].into[at]; fate = MERGED; decided = s; }
      else if (fate === KEPT) decided = s;
    }
    return { fate, stop: decided, into: fate === MERGED ? at : -1 };
  }
  const landing = (stops, token, stop) => fateAt(stops, token, stop).into;

  // The stop at which a token itself left, and the token that it was merged into there (or -1).
  function leftAt(stops, token) {
    const s = stops.findIndex((stop, i) => i > 0 && stop.fate[token] !== KEPT);
    return { stop: s, into: s > 0 && stops[s].fate[token] === MERGED ? stops[s].into[token] : -1 };
  }

  // ---- places ----------------------------------------------------------------------------------------------------

  function place(scene, x, y) {
    const [x0, y0, x1, y1] = scene.frame;
    return [(x - x0) / (x1 - x0) * scene.width, (y - y0) / (y1 - y0) * scene.height];
  }

  function cell(scene, box) {
    const [x, y] = place(scene, box.x, box.y).map(Math.round), [u, v] = place(scene, box.x + box.w, box.y + box.h).map(Math.round);
    return [x, y, u - x, v - y];
  }

  function tokenAt(scene, px, py) {
    const [x0, y0, x1, y1] = scene.frame, x = x0 + px / scene.width * (x1 - x0), y = y0 + py / scene.height * (y1 - y0);
    return scene.boxes.findIndex((b) => x >= b.x && x < b.x + b.w && y >= b.y && y < b.y + b.h);
  }

  // ---- painting --------------------------------------------------------------------------------------------------

  function photo(ink, scene) {
    const [x0, y0] = place(scene, 0, 0), [x1, y1] = place(scene, scene.picture[0], scene.picture[1]);
    ink.fillStyle = color('outside');
    ink.fillRect(0, 0, scene.width, scene.height);
    if (!scene.pixels) return ink.drawImage(scene.photo, x0, y0, x1 - x0, y1 - y0);
    // The model's own resolution: shrink to what the tower receives, then enlarge without smoothing.
    const small = document.createElement('canvas');
    [small.width, small.height] = scene.pixels;
    const sx = scene.pixels[0] / scene.width, sy = scene.pixels[1] / scene.height, pen = small.getContext('2d');
    pen.fillStyle = color('outside');
    pen.fillRect(0, 0, small.width, small.height);
    pen.imageSmoothingQuality = 'high';
    pen.drawImage(scene.photo, x0 * sx, y0 * sy, (x1 - x0) * sx, (y1 - y0) * sy);
    ink.imageSmoothingEnabled = false;
    ink.drawImage(small, 0, 0, scene.width, scene.height);
    ink.imageSmoothingEnabled = true;
  }

  function dimmed(scene) {
    const image = document.createElement('canvas'), opacity = scene.opacity;
    image.width = scene.width; image.height = scene.height;
    const ink = image.getContext('2d');
    ink.filter = `grayscale(${opacity}%)`;
    photo(ink, scene);
    ink.filter = 'none';
    ink.fillStyle = colour('dropped');
    ink.globalAlpha = opacity / 100;
    ink.fillRect(0, 0, image.width, image.height);
    return image;
  }

  function hatch(ink) {
    const tile = document.createElement('canvas');
    tile.width = tile.height = 8;
    const pen = tile.getContext('2d');
    pen.strokeStyle = 'rgba(255, 255, 255, .17)';
    pen.lineWidth = 1.2;
    for (const d of [-8, 0, 8]) { pen.beginPath(); pen.moveTo(d, 8); pen.lineTo(d + 8, 0); pen.stroke(); }
    return ink.createPattern(tile, 'repeat');
  }

  function fates(ink, scene, list) {
    const dim = dimmed(scene), lines = hatch(ink), mark = color('merged');
    list.forEach((fate, i) => {
      if (fate === KEPT) return;
      const [x, y, w, h] = cell(scene, scene.boxes[i]);
      ink.drawImage(dim, x, y, w, h, x, y, w, h);
      if (fate === MERGED) diamond(ink, x + w / 2, y + h / 2, Math.min(w, h) * 0.2, mark);
      else { ink.fillStyle = lines; ink.fillRect(x, y, w, h); }
    });
  }

  function diamond(ink, x, y, r) {
    ink.strokeStyle = colour('merged');
    ink.lineWidth = Math.max(1, r / 3);
    ink.beginPath(); ink.moveTo(x, y - r); ink.lineTo(x + r, y); ink.lineTo(x, y + r); ink.lineTo(x - r, y); ink.closePath(); ink.stroke();
  }

  function heat(t) {
    const at = Math.max(0, Math.min(1, t)) * (CIVIDIS.length - 1), i = Math.min(CIVIDIS.length - 2, Math.floor(at)), f = at - i;
    return CIVIDIS[i].map((v, c) => Math.round(v + (CIVIDIS[i + 1][c] - v) * f));
  }

  // Colour by rank, not by value: a few huge scores would paint everything else the same dark blue.
  function scores(ink, scene, stop) {
    const dim = dimmed(scene), lines = hatch(ink);
    scene.boxes.forEach((box, i) => {
      const [x, y, w, h] = cell(scene, box);
      if (Number.isNaN(stop.score[i])) { ink.drawImage(dim, x, y, w, h, x, y, w, h); ink.fillStyle = lines; }
      else ink.fillStyle = `rgba(${heat(1 - (stop.ranks.rank[i] - 1) / Math.max(1, stop.ranks.of - 1))}, ${scene.opacity / 100})`;
      ink.fillRect(x, y, w, h);
    });
  }

  // Why a token was kept: the colour of its reason over the kept ones, everything else as among the fates.
  function reasons(ink, scene, list, why) {
    const colors = Array.from({ length: N_REASONS }, (_, i) => reasonColor(i));
    fates(ink, scene, list);
    scene.boxes.forEach((box, i) => {
      if (list[i] !== KEPT || why.of[i] === NO_REASON) return;
      const [x, y, w, h] = cell(scene, box);
      ink.globalAlpha = 0.3 + 0.6 * scene.opacity / 100;
      ink.fillStyle = reason(why.of[i]);
      ink.fillRect(x, y, w, h);
      ink.globalAlpha = 1;
    });
  }

  // Attention of one word, relative to its strongest token; tokens without attention stay dark.
  function attention(ink, scene, weights) {
    const dim = dimmed(scene);
    scene.boxes.forEach((box, i) => {
      const [x, y, w, h] = cell(scene, box), t = weights[i] / 255;
      ink.drawImage(dim, x, y, w, h, x, y, w, h);
      if (t > 0.004) { ink.fillStyle = `rgba(${heat(Math.sqrt(t))}, ${0.25 + 0.65 * Math.sqrt(t)})`; ink.fillRect(x, y, w, h); }
    });
  }

  function grid(ink, scene) {
    ink.strokeStyle = 'rgba(255, 255, 255, .22)';
    ink.lineWidth = 1;
    for (const box of scene.boxes) { const [x, y, w, h] = cell(scene, box); ink.strokeRect(x + 0.5, y + 0.5, w, h); }
  }

  // The border of a set of tokens: one segment wherever a neighbour is not in the set. `strokes`: [colour, width, dash].
  function border(ink, scene, inside, strokes) {
    const at = new Map(scene.boxes.map((b, i) => [`${b.tile}:${b.row}:${b.col}`, i]));
    const has = (b, dr, dc) => { const i = at.get(`${b.tile}:${b.row + dr}:${b.col + dc}`); return i !== undefined && inside(i); };
    ink.beginPath();
    scene.boxes.forEach((b, i) => {
      if (!inside(i)) return;
      const [x, y, w, h] = cell(scene, b);
      if (!has(b, -1, 0)) { ink.moveTo(x, y); ink.lineTo(x + w, y); }
      if (!has(b, 1, 0)) { ink.moveTo(x, y + h); ink.lineTo(x + w, y + h); }
      if (!has(b, 0, -1)) { ink.moveTo(x, y); ink.lineTo(x, y + h); }
      if (!has(b, 0, 1)) { ink.moveTo(x + w, y); ink.lineTo(x + w, y + h); }
    });
    for (const [color, width, dash] of strokes) stroke(ink, scene, color, width, dash);
  }

  function stroke(ink, scene, color, width, dash = []) {
    ink.setLineDash(dash.map((d) => d * scene.ratio));
    ink.strokeStyle = color;
    ink.lineWidth = width * scene.ratio;
    ink.stroke();
    ink.setLineDash([]);
  }

  const kept = (ink, scene, inside) => border(ink, scene, inside, [['rgba(0, 0, 0, .75)', 3], [colour('kept'), 1.2]]);
  const answerRegion = (ink, scene, inside) => border(ink, scene, inside, [['rgba(0, 0, 0, .8)', 4.5], [colour('answer-region'), 2.4, [7, 4]]]);

  // What the model does not receive: everything outside its one square crop.
  function outside(ink, scene, tiles) {
    if (tiles.length !== 1) return;
    const [x0, y0, x1, y1] = tiles[0].box_xyxy, [a, b] = place(scene, x0, y0), [c, d] = place(scene, x1, y1), w = scene.width, h = scene.height;
    ink.globalAlpha = 0.82;
    ink.fillStyle = color('outside');
    for (const r of [[0, 0, w, b], [0, d, w, h - d], [0, b, a, d - b], [c, b, w - c, d - b]]) if (r[2] > 0.5 && r[3] > 0.5) ink.fillRect(...r);
    ink.globalAlpha = 1;
  }

  // One token: a ring, and lines to tokens that matter to it ([target, colour] pairs).
  function ring(ink, scene, token, links) {
    const [x, y, w, h] = cell(scene, scene.boxes[token]);
    for (const [target, color] of links) {
      const [u, v, a, b] = cell(scene, scene.boxes[target]);
      for (const [paint, width] of [['rgba(0, 0, 0, .8)', 4], [color, 2]]) {
        ink.beginPath(); ink.moveTo(x + w / 2, y + h / 2); ink.lineTo(u + a / 2, v + b / 2); stroke(ink, scene, paint, width);
      }
      ink.beginPath(); ink.rect(u, v, a, b); stroke(ink, scene, color, 2);
    }
    ink.beginPath(); ink.rect(x, y, w, h);
    stroke(ink, scene, 'rgba(0, 0, 0, .9)', 5); stroke(ink, scene, colour('kept'), 2.4);
  }

  return { GONE, DROPPED, MERGED, KEPT, boxesOf, stopsOf, attentionOf, fateAt, landing, leftAt, cell, tokenAt, colour, reason, heat, photo, fates, scores, reasons, attention, grid, kept, answerRegion, outside, ring };
})();
