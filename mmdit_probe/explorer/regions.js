"use strict";
// What the page shows beside I2T: T2I, T2T, I2I, reference images, and the keys that take most attention.

const SINK_TIMES = 4; // how many times uniform attention a key must take to be marked

/** Names of the regions that the page holds, each with its maps of this layer and timestep. */
const regionNames = () => Object.keys(data.regions);
const regionAt = (name) => blob(`${name}-${state.timestep}-${state.layer}`, Uint8Array);
const regionTops = (name) => blob(`${name}-largest`, Float32Array);

/** The largest probability that a query gives, at any timestep and layer that the page holds. */
function regionPeak(name, query, timestep = state.timestep, layer = state.layer) {
  const { count } = data.regions[name];
  return regionTops(name).values[(timestep * data.layers.length + layer) * count + query];
}

/** The probability with which a query of a region attends to a key. */
function pair(name, query, key) {
  const code = regionAt(name).values[query * data.regions[name].keys + key];
  return regionPeak(name, query) * (code / 255) ** 2;
}

/** What has to be unpacked before anything is drawn. */
const regionBlobs = () => regionNames().flatMap((name) => [regionAt(name), regionTops(name)]);

// ---- positions: keys are cells of a grid, queries are spread over it

/** The cell of a region's keys that a position of their grid lies in. */
function cellOf(name, at) {
  const { grid, cell } = data.regions[name];
  const [row, col] = [Math.floor(at / grid[1]), at % grid[1]];
  return Math.floor(row / cell) * Math.ceil(grid[1] / cell) + Math.floor(col / cell);
}

/** The number of a region's query that is nearest to a position (row, col). */
function nearestQuery(name, row, col) {
  const apart = ([r, c]) => (r - row) ** 2 + (c - col) ** 2;
  const { queries } = data.regions[name];
  return queries.reduce((best, at, number) => (apart(at) < apart(queries[best]) ? number : best), 0);
}

const positions = (grid) => Array.from({ length: grid[0] * grid[1] }, (_, at) => at);

// ---- views: what the map over the image shows

const VIEWS = {
  i2t: { short: "I2T", label: "to the word", title: "Pixels that listen to the word" },
  t2i: { short: "T2I", label: "from the word", title: "Pixels that the word listens to" },
  i2i: { short: "I2I", label: "from the pixel", title: "Pixels that the pixel under the cursor listens to" },
};

/** The view that is drawn: a reference's while one is hovered over. */
const view = () => (state.reference ? "reference" : state.view);

function makeViews() {
  const known = ["i2t", ...["t2i", "i2i"].filter((name) => name in data.regions)];
  $("views").hidden = known.length < 2;
  $("views").replaceChildren(...known.map((name) => element("button", {
    type: "button", "data-view": name, title: VIEWS[name].title,
  }, [element("b", { textContent: VIEWS[name].short }), ` ${VIEWS[name].label}`])));
  $("views").addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-view]")?.dataset.view;
    if (chosen) set({ view: chosen, reference: null, pinnedReference: null });
  });
}

function drawViews() {
  for (const button of $("views").querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view()));
  }
}

/** The tokens of an entry, each as often as it stands in the text. */
const tokensOf = (entry) => {
  if (entry.token !== undefined) return [entry.token];
  if (entry.members) return entry.members.map((member) => member.token);
  return data.tokens.flatMap((token, number) => (token.kind === entry.kind ? [number] : []));
};

/** The mean of several tokens' values, each token counted as often as it stands in the text. */
function tokenMean(entry, of) {
  const tokens = tokensOf(entry);
  const count = tokens.reduce((sum, token) => sum + data.tokens[token].count, 0);
  return tokens.reduce((sum, token) => sum + data.tokens[token].count * of(token), 0) / count;
}

/** What is drawn over the image: values of all pixels, the end of the colors, and what they are in words. */
function viewMap() {
  if (view() === "reference") return referenceMap();
  if (state.view === "t2i") {
    const values = positions(data.grid).map((at) => tokenMean(shown(), (token) => pair("t2i", token, at)));
    const single = shown().token !== undefined;
    return { values, name: ["Where ", shown().label, single ? " looks" : " look, their mean"], top: topOf(values, (t, l) =>
      Math.max(...tokensOf(shown()).map((token) => regionPeak("t2i", token, t, l)))) };
  }
  if (state.view === "i2i") {
    const query = nearestQuery("i2i", ...rowCol(place()));
    const [row, col] = data.regions.i2i.queries[query];
    const values = positions(data.grid).map((at) => pair("i2i", query, cellOf("i2i", at)));
    return { values, name: ["Where ", `row ${row}, column ${col}`, " looks"], top: topOf(values, (t, l) =>
      regionPeak("i2i", query, t, l)) };
  }
  const values = positions(data.grid).map((at) => value(shown(), at));
  return { values, name: ["Map of ", shown().label, ""], top: colorTop(shown(), values) };
}

/** Where the colors end: the largest value, or that of all layers and timesteps. */
function topOf(values, peakAt) {
  const own = Math.max(...values, 1e-12);
  if (state.scale === "own") return own;
  const peaks = data.timesteps.flatMap((_, timestep) => data.layers.map((_, layer) => peakAt(timestep, layer)));
  return Math.max(own, ...peaks);
}

/** What a map's numbers are means of, where that is not each pixel for itself. */
function viewNote() {
  const notes = [];
  const { cell, queries } = data.regions[view()] ?? {};
  if (view() === "i2i" && queries.length < places) notes.push(`one pixel in ${Math.round(places / queries.length)} was read, the nearest is shown`);
  if (view() === "i2i" && cell > 1) notes.push(`means over ${cell} x ${cell} pixels`);
  if (data.frames > 1 && view() === "i2i") notes.push(`pixels of the middle frame, means over ${data.frames} frames`);
  else if (data.frames > 1) notes.push(`means over ${data.frames} frames`);
  const text = notes.join("; ");
  return text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "";
}

// ---- sinks: the keys that take most of the image's attention

const sinksHere = () => (data.sinks === null ? [] : data.sinks[state.timestep][state.layer]);
const marked = () => (state.marks ? sinksHere().filter((sink) => sink.times >= SINK_TIMES) : []);

/** A key in words. */
function sinkName(sink) {
  if (sink.stream === "image") return `${sink.kind === "image" ? "pixel" : sink.kind}, ${sink.name}`;
  if (sink.stream === "other") return sink.name;
  const entry = entries.find((found) => found.token === sink.place);
  return entry.within ? `${sink.kind}, ${sink.name.split(" ").slice(0, 2).join(" ")}` : entry.label;
}

function drawSinks() {
  $("sinks").hidden = data.sinks === null;
  if (data.sinks === null) return;
  $("marks").replaceChildren(...marked().filter((sink) => sink.stream === "image").map((sink) => {
    const ring = element("i");
    put(ring, sink.place);
    return ring;
  }));
  const most = sinksHere()[0]?.mass ?? 1;
  $("sink-list").replaceChildren(...sinksHere().map((sink) => element("li", {
    class: sink.times >= SINK_TIMES ? "sink" : "",
    style: { "--hue": sink.stream === "image" ? "var(--image)" : sink.stream === "text" ? hue(sink.kind) : "var(--quiet)" },
  }, [
    element("span", { class: "name", textContent: sinkName(sink), title: sinkName(sink) }),
    element("span", { class: "bar", "aria-hidden": "true" }, [element("i", { style: { width: `${(100 * sink.mass) / most}%` } })]),
    element("span", { class: "value", textContent: `${percent(sink.mass)}, ${sink.times.toFixed(1)} x` }),
  ])));
  const of = data.sampled ? "evenly spaced pixels" : "all pixels";
  const count = marked().length || !state.marks ? "" : " None does here.";
  $("sinks-note").textContent = `Mean over ${of} and heads; x: times uniform attention. Marked, on the image and among the words, is what takes ${SINK_TIMES} times that or more.${count}`;
  for (const chip of $("chips").querySelectorAll("[data-entry]")) {
    const entry = entryOf(chip);
    const tokens = entry.sum ? [] : tokensOf(entry);
    chip.classList.toggle("sink", marked().some((sink) => sink.stream === "text" && tokens.includes(sink.place)));
  }
}

// ---- the matrix of words

const matrixTokens = () => listed().filter((entry) => entry.token !== undefined);
const LONGEST = 84; // most px left of the matrix and above it
const SMALLEST = 7; // px of a cell that has room for a word beside it

const matrixFont = (cell) => `${Math.min(12, Math.max(8, cell * 0.8))}px system-ui, sans-serif`;

/** The sizes of the drawn matrix, in CSS px; ``label`` is the room for words. */
function matrixSizes() {
  const width = $("t2t").clientWidth || 360;
  const tokens = matrixTokens();
  const context = $("t2t").getContext("2d");
  context.font = matrixFont((width - LONGEST) / tokens.length);
  const longest = Math.max(...tokens.map((entry) => context.measureText(entry.label).width));
  const label = (width - LONGEST) / tokens.length < SMALLEST ? 0 : Math.min(LONGEST, Math.ceil(longest) + 8);
  const cell = Math.min((width - label) / tokens.length, 32);
  return { width, tokens, cell, label, height: label + cell * tokens.length };
}

function drawMatrix() {
  $("t2t-figure").hidden = !("t2t" in data.regions);
  if ($("t2t-figure").hidden) return;
  const { width, tokens, cell, label, height } = matrixSizes();
  const canvas = $("t2t");
  const dots = window.devicePixelRatio || 1;
  canvas.width = width * dots;
  canvas.height = height * dots;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(dots, dots);
  const style = getComputedStyle(document.body);
  const [ink, quiet] = ["--ink", "--quiet"].map((name) => style.getPropertyValue(name).trim());
  const values = tokens.map((row) => tokens.map((col) => pair("t2t", row.token, col.token)));
  const top = Math.max(...values.flat(), 1e-12);
  values.forEach((row, r) => row.forEach((probability, c) => {
    context.fillStyle = `rgb(${plasma(Math.sqrt(probability / top)).map(Math.round).join(",")})`;
    const side = cell > SMALLEST ? cell - 1 : cell;
    context.fillRect(label + c * cell, label + r * cell, side, side);
  }));
  if (label) labelMatrix(context, { tokens, cell, label }, ink, quiet);
  const row = tokens.indexOf(shown());
  if (row >= 0) {
    context.strokeStyle = ink;
    context.lineWidth = 1.5;
    context.strokeRect(label - 1, label + row * cell - 1, cell * tokens.length + 1, cell + 1);
  }
  $("t2t-note").textContent = `Rows listen, columns are listened to. Colors are on a square-root scale and end at ${percent(top)}; means over heads.`;
  $("t2t-says").textContent = matrixSays();
  canvas.setAttribute("aria-label", `Attention of words to words. ${matrixSays()}`);
}

/** The words beside and above the matrix, where there is room for them. */
function labelMatrix(context, { tokens, cell, label }, ink, quiet) {
  context.font = matrixFont(cell);
  context.textBaseline = "middle";
  const fitted = (text) => {
    let short = text;
    while (short && context.measureText(short).width > LONGEST - 8) short = `${short.slice(0, -2)}…`;
    return short;
  };
  tokens.forEach((entry, number) => {
    context.fillStyle = entry.odd ? quiet : ink;
    context.textAlign = "right";
    context.fillText(fitted(entry.label), label - 5, label + (number + 0.5) * cell);
    context.save();
    context.translate(label + (number + 0.5) * cell, label - 5);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(fitted(entry.label), 0, 0);
    context.restore();
  });
}

/** The row of the word that is shown, in words: the pair under the mouse, or what it listens to most. */
function matrixSays() {
  const entry = shown();
  if (entry.token === undefined) return `${entry.label}: choose a single word for its row.`;
  const uniform = (part) => `${percent(part)} (${(part / data.uniformToken).toFixed(1)} times uniform)`;
  if (state.column) return `${entry.label} gives ${uniform(pair("t2t", entry.token, state.column.token))} of its attention to ${state.column.label}.`;
  const given = data.tokens.map((token, number) => ({ number, part: pair("t2t", entry.token, number), count: token.count }));
  const whole = given.reduce((sum, { part, count }) => sum + part * count, 0);
  const label = (number) => entries.find((found) => found.token === number).label;
  const most = given.sort((a, b) => b.part - a.part).slice(0, 3).map(({ number, part }) => `${label(number)} ${percent(part)}`);
  return `${entry.label} gives ${percent(whole)} of its attention to text, most to ${most.join(", ")}.`;
}

/** The entries of the row and column under the mouse, null outside of the matrix. */
function matrixUnder(event) {
  const box = $("t2t").getBoundingClientRect();
  const { tokens, cell, label } = matrixSizes();
  const at = (offset) => Math.floor((offset - label) / cell);
  const [row, col] = [at(event.clientY - box.top), at(event.clientX - box.left)];
  return tokens[row] && tokens[col] ? { row: tokens[row], col: tokens[col] } : null;
}

function watchMatrix() {
  const canvas = $("t2t");
  canvas.addEventListener("pointermove", (event) => {
    const under = matrixUnder(event);
    if ((under?.row ?? null) !== state.hoverEntry || (under?.col ?? null) !== state.column) {
      set({ hoverEntry: under?.row ?? null, column: under?.col ?? null });
    }
  });
  canvas.addEventListener("pointerleave", () => set({ hoverEntry: null, column: null }));
  canvas.addEventListener("click", (event) => {
    const under = matrixUnder(event);
    if (under) set({ pinnedEntry: under.row });
  });
  window.addEventListener("resize", () => { if (document.body.dataset.drawn) drawMatrix(); });
}

// ---- reference images

const referenceOf = (number) => data.onReferences.find((reference) => reference.number === number);

/** The map over the image while a place of a reference is pointed at. */
function referenceMap() {
  const { number, at } = state.reference;
  const { grid } = referenceOf(number);
  const [row, col] = [Math.floor(at / grid[1]), at % grid[1]];
  const [asks, listens] = [`r2i-${number}`, `i2r-${number}`];
  if (state.toReference || !(asks in data.regions)) {
    const values = positions(data.grid).map((pixel) => pair(listens, nearestQuery(listens, ...rowCol(pixel)), cellOf(listens, at)));
    return { values, name: [`To reference ${number}, `, `row ${row}, column ${col}`, ""], top: Math.max(...values, 1e-12) };
  }
  const query = nearestQuery(asks, row, col);
  const [r, c] = data.regions[asks].queries[query];
  const values = positions(data.grid).map((pixel) => pair(asks, query, cellOf(asks, pixel)));
  return { values, name: [`From reference ${number}, `, `row ${r}, column ${c}`, ""], top: topOf(values, (t, l) => regionPeak(asks, query, t, l)) };
}

function makeReferences() {
  $("references").hidden = !data.onReferences.length;
  const frames = data.onReferences.map(({ number, grid, image }) => {
    const picture = image ? [element("img", { src: image.source, alt: "", class: image.width < 256 ? "blocks" : "" })] : [];
    const frame = element("div", {
      class: "reference", tabIndex: 0, role: "application", "data-reference": String(number), style: { "--aspect": grid[1] / grid[0] },
      "aria-label": `Reference ${number} with a cursor: arrow keys move it`,
    }, [...picture, element("canvas", { width: grid[1], height: grid[0], "aria-hidden": "true" }), element("i", { hidden: true })]);
    watchReference(frame, number, grid);
    return element("figure", {}, [frame, element("figcaption", { textContent: `reference ${number}` })]);
  });
  const both = data.onReferences.some(({ number }) => `r2i-${number}` in data.regions);
  const choice = element("select", { id: "reference-way", "aria-label": "What a place of a reference shows" }, [
    ...(both ? [element("option", { value: "from", textContent: "pixels that the place listens to (R2I)" })] : []),
    element("option", { value: "to", textContent: "pixels that listen to the place (I2R)" }),
  ]);
  choice.addEventListener("change", () => set({ toReference: choice.value === "to" }));
  $("reference-frames").replaceChildren(...frames, ...(frames.length ? [choice] : []));
}

function watchReference(frame, number, grid) {
  const under = (event) => {
    const box = frame.getBoundingClientRect();
    const inside = (part, size, end) => Math.min(Math.max(Math.floor((part / size) * end), 0), end - 1);
    return inside(event.clientY - box.top, box.height, grid[0]) * grid[1] + inside(event.clientX - box.left, box.width, grid[1]);
  };
  const show = (at) => { if (at !== state.reference?.at || number !== state.reference?.number) set({ reference: { number, at } }); };
  frame.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") show(under(event)); });
  frame.addEventListener("pointerleave", () => set({ reference: state.pinnedReference }));
  frame.addEventListener("click", (event) => {
    const kept = { number, at: under(event) };
    set({ reference: kept, pinnedReference: kept });
  });
  frame.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return set({ reference: null, pinnedReference: null });
    const step = ARROWS[event.key];
    if (!step) return undefined;
    event.preventDefault();
    const at = state.pinnedReference?.number === number ? state.pinnedReference.at : Math.floor(grid[0] / 2) * grid[1] + Math.floor(grid[1] / 2);
    const clamp = (value, end) => Math.min(Math.max(value, 0), end - 1);
    const moved = clamp(Math.floor(at / grid[1]) + step[0], grid[0]) * grid[1] + clamp((at % grid[1]) + step[1], grid[1]);
    return set({ reference: { number, at: moved }, pinnedReference: { number, at: moved } });
  });
}

/** On each reference, where the pixel of the image looks; all references have one scale. */
function drawReferences() {
  if (!data.onReferences.length) return;
  const maps = data.onReferences.map(({ number, grid }) => {
    const name = `i2r-${number}`;
    const query = nearestQuery(name, ...rowCol(place()));
    return positions(grid).map((at) => pair(name, query, cellOf(name, at)));
  });
  const top = Math.max(...maps.flat(), 1e-12);
  const whole = maps.map((values) => values.reduce((sum, part) => sum + part, 0));
  data.onReferences.forEach(({ number, grid, image }, index) => {
    const frame = $("reference-frames").querySelector(`[data-reference="${number}"]`);
    const drawn = new ImageData(grid[1], grid[0]);
    maps[index].forEach((part, at) => {
      const solid = image ? state.strength * Math.sqrt(Math.min(part / top, 1)) : 1;
      drawn.data.set([...plasma(part / top), 255 * solid], 4 * at);
    });
    frame.querySelector("canvas").getContext("2d").putImageData(drawn, 0, 0);
    frame.parentElement.querySelector("figcaption").textContent = `reference ${number}: ${percent(whole[index])} of this pixel's attention`;
    const mark = frame.querySelector("i");
    mark.hidden = state.reference?.number !== number;
    if (!mark.hidden) put(mark, state.reference.at, grid);
  });
  $("reference-note").textContent = `Drawn here is where the pixel under the cursor looks, at most ${percent(top)} a place.`;
}

/** Everything of this file, at the start and whenever the state has changed. */
function makeRegions() {
  makeViews();
  makeReferences();
  if ("t2t" in data.regions) watchMatrix();
  $("mark-sinks").addEventListener("change", () => set({ marks: $("mark-sinks").checked }));
  const { queries, cell } = data.regions.i2i ?? {};
  if (queries) $("kept").textContent = `I2I is kept of ${queries.length} of ${places} pixels${cell > 1 ? `, as means over ${cell} x ${cell} pixels` : ""}; T2I, T2T and I2I have 8 bits too, relative to each query's peak.`;
}

function drawRegions() {
  drawViews();
  drawSinks();
  drawMatrix();
  drawReferences();
}
