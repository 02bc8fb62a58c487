// The page's state is four positions (timestep, layer, group, and what is shown), everything else is drawn from it.

const data = JSON.parse(document.getElementById("data").textContent);
const [rows, cols] = data.grid;
const places = rows * cols;
const groups = data.groups.length;
const $ = (id) => document.getElementById(id);

// ---- maps: packed in script elements, unpacked when first looked at

const unpacked = new Map();

async function bytes(id) {
  const text = atob($(id).textContent);
  const packed = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

function blob(id, Type) {
  if (!unpacked.has(id)) {
    const entry = { values: null };
    entry.ready = bytes(id).then((buffer) => { entry.values = new Type(buffer); });
    unpacked.set(id, entry);
  }
  return unpacked.get(id);
}

const mapsAt = (timestep, layer) => blob(`maps-${timestep}-${layer}`, Uint8Array);
const sharesAt = (timestep) => blob(`shares-${timestep}`, Uint16Array);
const largest = () => blob("largest", Float32Array).values;

/** The largest probability of a token's map. */
function peak(timestep, layer, group, token) {
  return largest()[((timestep * data.layers.length + layer) * groups + group) * data.tokens.length + token];
}

/** The probability that a pixel gives to a token. */
function prob(token, place) {
  const code = mapsAt(state.timestep, state.layer).values[(state.group * data.tokens.length + token) * places + place];
  return peak(state.timestep, state.layer, state.group, token) * (code / 255) ** 2;
}

/** A pixel's share for the image (0) or a kind of token (1 ...), in one layer. */
function share(kind, place, layer = state.layer) {
  const start = (layer * groups + state.group) * (1 + data.kinds.length);
  return sharesAt(state.timestep).values[(start + kind) * places + place] / 65535;
}

// ---- entries: the tokens, and a fold for each run of tokens that are no words

const KINDS = {
  word: ["words", "--word"], start: ["start token", "--start"], end: ["end token", "--end"],
  padding: ["padding", "--padding"], absent: ["zeros for an encoder left out", "--absent"],
  template: ["template around the prompt", "--template"], text: ["text", "--text"],
};
const FOLDED = ["padding", "absent", "template"];
const hue = (kind) => `var(${KINDS[kind][1]})`;
const countOf = (kind) => data.tokens.reduce((sum, token) => sum + (token.kind === kind ? token.count : 0), 0);

function tokenEntry(token, number) {
  const label = { start: "start", end: "end" }[token.kind] ?? (token.text || KINDS[token.kind][0]);
  return { id: `token-${number}`, token: number, kind: token.kind, label, odd: token.kind !== "word", encoder: token.encoder };
}

function makeEntries() {
  const entries = [];
  const folds = new Map();
  data.tokens.forEach((token, number) => {
    const entry = tokenEntry(token, number);
    if (FOLDED.includes(token.kind) && countOf(token.kind) > 1) {
      if (!folds.has(token.kind)) {
        const fold = { id: `kind-${token.kind}`, kind: token.kind, label: `${KINDS[token.kind][0]}, all ${countOf(token.kind)}`,
          odd: true, members: [], encoder: token.encoder, fold: true };
        folds.set(token.kind, fold);
        entries.push(fold);
      }
      entry.within = folds.get(token.kind);
      const name = token.kind === "padding" ? "padding" : token.text || token.kind;
      entry.label = `${name} ${1 + entry.within.members.length}`;
      if (token.count > 1) entry.label = `${token.kind}, each of ${token.count} alike`;
      entry.within.members.push(entry);
    }
    entries.push(entry);
  });
  const words = data.whole && data.tokens.filter((token) => token.kind === "word").length > 1;
  if (words) {
    entries.push({ id: "kind-word", kind: "word", label: "all words together", odd: true, sum: true });
  }
  return entries;
}

const entries = makeEntries();
const open = new Set();
const listed = () => entries.filter((entry) => !entry.within || open.has(entry.kind));

/** The probability that a pixel gives to an entry: one token, or all of a kind. */
function value(entry, place) {
  if (entry.token !== undefined) return prob(entry.token, place);
  if (data.whole) return share(1 + data.kinds.indexOf(entry.kind), place);
  return entry.members.reduce((sum, member) => sum + data.tokens[member.token].count * prob(member.token, place), 0);
}

// ---- state

const state = {
  ...data.start, group: 0, scale: "own", strength: 0.9, order: "prompt",
  pinnedPlace: data.start.place, pinnedEntry: entries.find((entry) => entry.token === data.start.token),
  hoverPlace: null, hoverEntry: null, view: "i2t", column: null, marks: true,
  reference: null, pinnedReference: null, toReference: false,
  followed: true,
};
const place = () => state.hoverPlace ?? state.pinnedPlace;
const shown = () => state.hoverEntry ?? state.pinnedEntry;
const rowCol = (at) => [Math.floor(at / cols), at % cols];

let drawing = 0;

/** Draw what the state says, once its maps are unpacked. */
async function update() {
  const mine = ++drawing;
  const needed = [blob("largest", Float32Array), mapsAt(state.timestep, state.layer), ...regionBlobs()];
  if (data.whole) needed.push(sharesAt(state.timestep));
  if (needed.some((entry) => entry.values === null)) await Promise.all(needed.map((entry) => entry.ready));
  if (mine === drawing) draw();
}

function draw() {
  drawControls();
  drawMap();
  drawCursor();
  drawPixel();
  drawChips();
  drawCharts();
  drawRegions();
  document.body.dataset.drawn = [state.timestep, state.layer, state.group, place(), shown().id].join(" ");
  tellChosen();
}

// ---- words and numbers

const percent = (share) => {
  const value = 100 * share;
  if (value === 0) return "0%";
  return value < 0.01 ? "<0.01%" : `${value.toFixed(value < 1 ? 2 : 1)}%`;
};

function element(name, properties = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key === "style") for (const [style, set] of Object.entries(value)) made.style.setProperty(style, set);
    else if (key.startsWith("data-") || key.startsWith("aria-")) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

const timestepName = (at) => {
  const { name, sigma } = data.timesteps[at];
  return sigma === null ? name : `${name} (sigma ${sigma.toFixed(3)})`;
};
const groupName = (at) => {
  const name = data.groups[at];
  if (name === "all") return "all heads, mean";
  return name.includes("-") ? `heads ${name}, mean` : `head ${name}`;
};

// ---- the image and its map

const PLASMA = ["0d0887", "4b03a1", "7d03a8", "a82296", "cb4679", "e56b5d", "f89441", "fdc328", "f0f921"].map((code) =>
  [0, 2, 4].map((at) => parseInt(code.slice(at, at + 2), 16)));

function plasma(level) {
  const at = Math.min(Math.max(level, 0), 1) * (PLASMA.length - 1);
  const low = Math.min(Math.floor(at), PLASMA.length - 2);
  return PLASMA[low].map((channel, index) => channel + (at - low) * (PLASMA[low + 1][index] - channel));
}

/** Where the colors end: this map's peak, or the highest peak of the entry's maps. */
function colorTop(entry, values) {
  const own = Math.max(...values, 1e-12);
  if (state.scale === "own") return own;
  let top = own;
  for (let timestep = 0; timestep < data.timesteps.length; timestep++) {
    for (let layer = 0; layer < data.layers.length; layer++) {
      if (entry.token !== undefined) top = Math.max(top, peak(timestep, layer, state.group, entry.token));
      else top = 1; // a kind's sum: of the whole attention
    }
  }
  return top;
}

function drawMap() {
  const { values, top, name } = viewMap();
  const image = new ImageData(cols, rows);
  values.forEach((probability, at) => {
    const level = probability / top;
    const solid = data.image ? state.strength * Math.sqrt(Math.min(level, 1)) : 1;
    image.data.set([...plasma(level), 255 * solid], 4 * at);
  });
  $("heat").getContext("2d").putImageData(image, 0, 0);
  $("image").style.setProperty("--grey", Math.min(1, 2 * state.strength)); // no overlay: the image as it is
  $("map-name").replaceChildren(name[0], element("b", { textContent: name[1] }), name[2]);
  $("map-note").textContent = viewNote();
  $("top").textContent = percent(top);
}

function drawRamp() {
  const image = new ImageData(128, 1);
  for (let at = 0; at < 128; at++) image.data.set([...plasma(at / 127), 255], 4 * at);
  $("ramp").getContext("2d").putImageData(image, 0, 0);
}

function put(mark, at, [down, across] = [rows, cols]) {
  mark.style.left = `${(100 * (at % across)) / across}%`;
  mark.style.top = `${(100 * Math.floor(at / across)) / down}%`;
  mark.style.width = `${100 / across}%`;
  mark.style.height = `${100 / down}%`;
}

function drawCursor() {
  put($("cursor"), place());
  put($("pin"), state.pinnedPlace);
  $("pin").hidden = state.hoverPlace === null || state.hoverPlace === state.pinnedPlace;
}

/** The image as it is, and enlarged the pixel with its neighbors. */
function drawPatch() {
  const image = $("image");
  if (!data.image || !image.complete || !image.naturalWidth) return;
  const [row, col] = rowCol(place());
  const [width, height] = [image.naturalWidth / cols, image.naturalHeight / rows];
  const whole = $("whole");
  const scale = whole.width / image.naturalWidth;
  const context = whole.getContext("2d");
  context.imageSmoothingEnabled = scale < 1;
  context.drawImage(image, 0, 0, whole.width, whole.height);
  mark(context, col * width * scale, row * height * scale, width * scale, height * scale);
  const near = $("near");
  const close = near.getContext("2d");
  close.imageSmoothingEnabled = false;
  close.clearRect(0, 0, near.width, near.height);
  close.drawImage(image, (col - 1) * width, (row - 1) * height, 3 * width, 3 * height, 0, 0, near.width, near.height);
  mark(close, near.width / 3, near.height / 3, near.width / 3, near.height / 3);
}

function mark(context, ...box) {
  for (const [color, width] of [["#000", 5], ["#fff", 2]]) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.strokeRect(...box);
  }
}

// ---- the pixel: its whole budget, then word by word

function budgetParts(at) {
  const image = data.others ? `image, ${data.others}` : "image";
  const parts = data.cross ? [] : [{ label: image, hue: "var(--image)", share: share(0, at) }];
  data.kinds.forEach((kind, index) => {
    const count = countOf(kind);
    const label = KINDS[kind][0] + (FOLDED.includes(kind) && count > 1 ? ` (${count})` : "");
    parts.push({ label, hue: hue(kind), share: share(1 + index, at) });
  });
  return parts;
}

function drawPixel() {
  const [row, col] = rowCol(place());
  $("pixel-title").textContent = `Pixel in row ${row}, column ${col}`;
  drawPatch();
  $("budget-bar").hidden = $("budget-key").hidden = !data.whole;
  if (data.whole) drawBudget();
  else $("pixel-says").textContent = "This record holds maps of chosen words alone, each the mean over its tokens: what else the pixel attends to is not known.";
  drawBars();
}

function drawBudget() {
  const parts = budgetParts(place());
  const says = parts.map((part) => `${part.label} ${percent(part.share)}`).join(", ");
  $("pixel-says").textContent = data.cross
    ? "All of its attention goes to text here."
    : `gives ${percent(parts[0].share)} of its attention to the ${parts[0].label}, ${percent(1 - parts[0].share)} to text.`;
  $("budget-bar").setAttribute("aria-label", `All of this pixel's attention: ${says}`);
  const segments = parts.map((part) => element("span", { style: { flex: `${part.share} 1 0`, background: part.hue } }));
  $("budget-bar").replaceChildren(...segments);
  const key = parts.map((part) => element("li", {}, [
    element("span", { class: "swatch", style: { background: part.hue } }), `${part.label} `,
    element("b", { textContent: percent(part.share) }),
  ]));
  $("budget-key").replaceChildren(...key);
}

function drawBars() {
  const at = place();
  const found = listed().filter((entry) => !entry.sum).map((entry) => ({ entry, share: value(entry, at) }));
  if (state.order === "strength") found.sort((one, other) => other.share - one.share);
  const end = Math.max(data.uniformToken * 1.2, ...found.map((item) => item.share));
  const bars = found.map(({ entry, share: part }) => {
    const bar = element("span", { class: "bar", "aria-hidden": "true" }, [element("i", { style: { width: `${(100 * part) / end}%` } })]);
    if (!entry.fold) bar.append(element("u", { style: { left: `${(100 * data.uniformToken) / end}%` } }));
    const name = element("span", { class: `name${entry.odd ? " odd" : ""}`, textContent: entry.label, title: entry.label });
    return element("li", {
      class: `${entry === shown() ? "shown" : ""}${entry.within ? " member" : ""}`, style: { "--hue": hue(entry.kind) },
      "data-entry": entry.id,
    }, [name, bar, element("span", { class: "value", textContent: percent(part) })]);
  });
  $("bars").replaceChildren(...bars);
  $("bars-note").textContent = `Bars run from 0 to ${percent(end)}; the dotted mark is uniform attention, ${percent(data.uniformToken)} for each token.`;
}

// ---- chips: the prompt's tokens as buttons

function makeChips() {
  const nodes = [];
  const encoders = new Set(data.tokens.map((token) => token.encoder));
  let encoder = encoders.size > 1 ? null : data.tokens[0].encoder;
  for (const entry of listed()) {
    if (!entry.sum && entry.encoder !== encoder) {
      encoder = entry.encoder;
      nodes.push(element("span", { class: "encoder", textContent: `text encoder ${encoder}` }));
    }
    nodes.push(element("button", {
      class: `chip${entry.odd ? " odd" : ""}`, type: "button", textContent: entry.label, style: { "--hue": hue(entry.kind) },
      "data-entry": entry.id,
    }));
    if (entry.fold) {
      const unfolded = open.has(entry.kind);
      nodes.push(element("button", {
        class: "chip fold", type: "button", "data-fold": entry.kind, "aria-expanded": String(unfolded),
        textContent: unfolded ? "fold" : "unfold", "aria-label": `${unfolded ? "fold" : "unfold"} ${KINDS[entry.kind][0]}`,
      }));
    }
  }
  $("chips").replaceChildren(...nodes);
}

function drawChips() {
  const at = place();
  const single = listed().filter((entry) => entry.token !== undefined);
  const end = Math.max(...single.map((entry) => value(entry, at)), 1e-12);
  for (const chip of $("chips").querySelectorAll("[data-entry]")) {
    const entry = entryOf(chip);
    const part = value(entry, at);
    chip.classList.toggle("shown", entry === shown());
    chip.setAttribute("aria-pressed", String(entry === state.pinnedEntry));
    chip.style.setProperty("--share", Math.min(1, part / end));
    chip.title = `${percent(part)} of this pixel's attention`;
  }
}

const entryOf = (node) => entries.find((entry) => entry.id === node.dataset.entry);

// ---- curves over layers

const SVG = "http://www.w3.org/2000/svg";
const CHART = { width: 380, height: 170, left: 38, right: 8, top: 8, bottom: 24 };

function svg(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, set] of Object.entries(attributes)) made.setAttribute(key, set);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Lines over layers; each line has layers, values, hue, dash, and the level of uniform attention if it has one. */
function drawChart(chart, lines, all, end, format) {
  const { width, height, left, right, top, bottom } = CHART;
  const [first, last] = [all[0], all[all.length - 1]];
  const x = (layer) => left + ((width - left - right) * (layer - first)) / Math.max(1, last - first);
  const y = (level) => height - bottom - ((height - top - bottom) * level) / end;
  const nodes = [];
  for (const level of [0, end / 2, end]) {
    nodes.push(svg("line", { class: "axis", x1: left, x2: width - right, y1: y(level), y2: y(level) }));
    nodes.push(svg("text", { x: left - 5, y: y(level) + 4, "text-anchor": "end" }, format(level)));
  }
  const here = data.layers[state.layer];
  const every = Math.ceil(all.length / 13);
  for (const [index, layer] of all.entries()) {
    const near = layer !== here && Math.abs(layer - here) < every;
    if (layer !== here && (index % every || near)) continue;
    nodes.push(svg("text", { x: x(layer), y: height - 7, "text-anchor": "middle", class: layer === here ? "here" : "" }, layer));
  }
  nodes.push(svg("line", { class: "here", x1: x(here), x2: x(here), y1: top, y2: height - bottom }));
  for (const line of lines) {
    const known = line.layers.map((layer, index) => [layer, line.values[index]]).filter(([, level]) => level !== null);
    const points = known.map(([layer, level]) => `${x(layer).toFixed(1)},${y(level).toFixed(1)}`).join(" ");
    const style = `stroke:${line.hue};fill:none;stroke-width:2${line.dash ? ";stroke-dasharray:5 3" : ""}`;
    if (line.uniform) {
      const dotted = `stroke:${line.hue};stroke-width:1.5;stroke-dasharray:1.5 3`;
      nodes.push(svg("line", { x1: left, x2: width - right, y1: y(line.uniform), y2: y(line.uniform), style: dotted }));
    }
    nodes.push(svg("polyline", { points, style }));
    for (const [layer, level] of known) {
      if (layer === here) nodes.push(svg("circle", { cx: x(layer), cy: y(level), r: 4, style: `fill:${line.hue}` }));
    }
  }
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.replaceChildren(...nodes);
}

/** A line's value at the current layer. */
const valueHere = (line) => line.values[line.layers.indexOf(data.layers[state.layer])] ?? null;

function drawLines(list, lines, format) {
  list.replaceChildren(...lines.map((line) => element("li", {}, [
    element("span", { class: "dash", style: { "border-top-color": line.hue, "border-top-style": line.dash ? "dashed" : "solid" } }),
    `${line.label} `, element("b", { textContent: valueHere(line) === null ? "unknown" : format(valueHere(line)) }),
    line.uniform ? `, uniform ${format(line.uniform)}` : "",
  ])));
}

/** A curve's values of every layer at the current timestep and group. */
const curve = (values, which) => values[state.timestep].map((layer) => layer[state.group][which]);

function budgetLines() {
  const { layers, budget, uniform } = data.curves;
  const lines = budget === null ? [] : [
    { label: "I2T, image to text", values: curve(budget, 1), hue: "var(--word)", uniform: uniform.I2T },
    { label: "T2I, text to image", values: curve(budget, 2), hue: "var(--image)", uniform: uniform.T2I },
    ...(uniform.I2R === undefined ? [] : [
      { label: "I2R, image to references", values: curve(budget, 4), hue: "var(--reference)", uniform: uniform.I2R },
      { label: "T2R, text to references", values: curve(budget, 5), hue: "var(--reference)", dash: true, uniform: uniform.T2R },
    ]),
  ].map((line) => ({ ...line, layers }));
  if (data.whole && !data.cross) {
    const values = data.layers.map((_, layer) => 1 - share(0, place(), layer));
    lines.push({ label: "this pixel to text", values, hue: "var(--quiet)", dash: true, layers: data.layers });
  }
  return lines.filter((line) => line.values.some((level) => level !== null));
}

function drawCharts() {
  const layers = data.curves.layers.length ? data.curves.layers : data.layers;
  const budget = budgetLines();
  $("budget-figure").hidden = !budget.length;
  const share = (level) => `${(100 * level).toFixed(level > 0 && level < 0.1 ? 1 : 0)}%`;
  if (budget.length) {
    drawChart($("budget-chart"), budget, layers, 1, share);
    drawLines($("budget-lines"), budget, percent);
    $("budget-chart").setAttribute("aria-label", "Share of attention by layer; the values at this layer stand below");
  }
  $("norm-figure").hidden = data.curves.norms === null;
  if (data.curves.norms === null) return;
  const names = [["image tokens", "--image", false], ["all text tokens", "--word", false], ["words of the prompt", "--template", true]];
  data.references.forEach((_, index) => names.push([`reference ${index + 1}`, "--reference", index > 0]));
  const norms = names
    .map(([label, color, dash], which) => ({ label, hue: `var(${color})`, dash, layers, values: curve(data.curves.norms, which) }))
    .filter((line) => line.values.some((level) => level !== null));
  const ever = data.curves.norms.flatMap((timestep) => timestep.flatMap((layer) => layer[state.group]));
  const end = Math.max(...ever.filter((level) => level !== null)); // one scale for all timesteps
  const length = (level) => level.toFixed(end < 10 ? 2 : 1);
  drawChart($("norm-chart"), norms, layers, end || 1, length);
  drawLines($("norm-lines"), norms, length);
  $("norm-chart").setAttribute("aria-label", "Mean length of the value vectors by layer; the values at this layer stand below");
}

/** The kept layer nearest to where a chart was clicked. */
function clickedLayer(chart, event) {
  const box = chart.getBoundingClientRect();
  const { width, left, right } = CHART;
  const layers = data.curves.layers.length ? data.curves.layers : data.layers;
  const across = (((event.clientX - box.left) / box.width) * width - left) / (width - left - right);
  const layer = layers[0] + across * (layers[layers.length - 1] - layers[0]);
  const distance = (index) => Math.abs(data.layers[index] - layer);
  return data.layers.reduce((best, _, index) => (distance(index) < distance(best) ? index : best), 0);
}

// ---- controls

function drawControls() {
  $("layer").value = state.layer;
  $("timestep").value = state.timestep;
  $("layer-name").textContent = data.layers[state.layer];
  $("timestep-name").textContent = timestepName(state.timestep);
  $("heads").selectedIndex = state.group;
  $("scale").value = state.scale;
  $("order").value = state.order;
  $("strength").value = Math.round(100 * state.strength);
  $("mark-sinks").checked = state.marks;
  $("layer").setAttribute("aria-valuetext", `layer ${data.layers[state.layer]}`);
  $("timestep").setAttribute("aria-valuetext", timestepName(state.timestep));
}

function set(changes) {
  Object.assign(state, { followed: false }, changes);
  update();
}

let speaking = 0;

/** Say what is shown, a moment after it stopped changing. */
function announce() {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    if (!mapsAt(state.timestep, state.layer).values) return;
    const [row, col] = rowCol(state.pinnedPlace);
    const words = entries.filter((entry) => entry.token !== undefined && !entry.odd);
    const most = words.map((entry) => [value(entry, state.pinnedPlace), entry.label]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    const said = most.map(([part, label]) => `${label} ${percent(part)}`).join(", ");
    $("announcer").textContent = `Row ${row}, column ${col}. ${$("pixel-says").textContent} ${said}`;
  }, 400);
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function moveCursor(event) {
  if (event.key === "Escape") return set({ hoverPlace: null });
  const step = ARROWS[event.key];
  if (!step) return undefined;
  event.preventDefault();
  const [row, col] = rowCol(place());
  const by = event.shiftKey ? 4 : 1;
  const clamp = (number, end) => Math.min(Math.max(number, 0), end - 1);
  const moved = clamp(row + by * step[0], rows) * cols + clamp(col + by * step[1], cols);
  announce();
  return set({ pinnedPlace: moved, hoverPlace: null });
}

function placeUnder(event) {
  const box = $("frame").getBoundingClientRect();
  const inside = (part, size, end) => Math.min(Math.max(Math.floor((part / size) * end), 0), end - 1);
  return inside(event.clientY - box.top, box.height, rows) * cols + inside(event.clientX - box.left, box.width, cols);
}

function watchImage() {
  const frame = $("frame");
  frame.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const under = placeUnder(event);
    if (under !== state.hoverPlace) set({ hoverPlace: under });
  });
  frame.addEventListener("pointerleave", () => set({ hoverPlace: null }));
  frame.addEventListener("click", (event) => {
    announce();
    set({ pinnedPlace: placeUnder(event), hoverPlace: null, reference: null, pinnedReference: null });
  });
  frame.addEventListener("keydown", moveCursor);
  $("image").addEventListener("load", drawPatch);
}

/** Chips and bars: hover or focus previews an entry's map, a click keeps it. */
function watchEntries(list) {
  const under = (event) => {
    const node = event.target.closest("[data-entry]");
    return node ? entryOf(node) : null;
  };
  const preview = (entry) => { if (entry !== state.hoverEntry) set({ hoverEntry: entry }); };
  list.addEventListener("pointerover", (event) => { if (event.pointerType !== "touch") preview(under(event)); });
  list.addEventListener("pointerleave", () => preview(null));
  list.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) preview(under(event)); });
  list.addEventListener("focusout", () => preview(null));
  list.addEventListener("click", (event) => {
    const entry = under(event);
    if (entry) set({ pinnedEntry: entry });
    const fold = event.target.closest("[data-fold]")?.dataset.fold;
    if (fold) toggleFold(fold);
  });
}

function toggleFold(kind) {
  if (open.has(kind)) open.delete(kind);
  else open.add(kind);
  if (!listed().includes(state.pinnedEntry)) state.pinnedEntry = state.pinnedEntry.within;
  state.hoverEntry = null;
  makeChips();
  $("chips").querySelector(`[data-fold="${kind}"]`).focus();
  update();
}

function watchControls() {
  const numbers = { layer: "layer", timestep: "timestep" };
  for (const [id, name] of Object.entries(numbers)) $(id).addEventListener("input", () => set({ [name]: Number($(id).value) }));
  $("strength").addEventListener("input", () => set({ strength: $("strength").value / 100 }));
  $("heads").addEventListener("change", () => set({ group: $("heads").selectedIndex }));
  for (const name of ["scale", "order"]) $(name).addEventListener("change", () => set({ [name]: $(name).value }));
  for (const id of ["budget-chart", "norm-chart"]) {
    $(id).addEventListener("click", (event) => set({ layer: clickedLayer($(id), event) }));
  }
}

function begin() {
  $("prompt").textContent = data.prompt ? `“${data.prompt}”` : "No words";
  $("facts").textContent = data.facts.join(" · ");
  $("frame").style.setProperty("--aspect", cols / rows);
  $("heat").width = cols;
  $("heat").height = rows;
  for (const id of ["image", "whole", "near"]) $(id).hidden = !data.image;
  $("whole").height = Math.round(($("whole").width * rows) / cols);
  if (data.image) {
    $("image").src = data.image.source;
    $("image").classList.toggle("blocks", data.image.width < 256);
  }
  $("layer").max = data.layers.length - 1;
  $("timestep").max = data.timesteps.length - 1;
  $("heads").replaceChildren(...data.groups.map((_, group) => element("option", { textContent: groupName(group) })));
  drawRamp();
  makeChips();
  makeRegions();
  watchImage();
  watchEntries($("chips"));
  watchEntries($("bars"));
  watchControls();
  watchOther();
  return update();
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = false;
}

if (typeof DecompressionStream === "undefined") {
  complain("This browser cannot unpack the maps; use Chrome or Edge 80, Firefox 113, Safari 16.4, or newer.");
} else {
  begin().catch((error) => complain(`The page's data are damaged (${error.message}); write the page again.`));
}
