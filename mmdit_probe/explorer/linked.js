// A page beside another one (compare.js): it tells what is chosen in it, and follows what is chosen there.

const beside = document.documentElement.dataset.side !== undefined && window.parent !== window;

/** How many layers the model has, as far as the page knows. */
const depth = () => (data.curves.layers.length || data.layers.length);

/** What is chosen here, in words that another page can look up. */
function chosenHere() {
  const [row, col] = rowCol(place());
  const same = entries.filter((entry) => entry.kind === shown().kind && entry.label === shown().label);
  return {
    layer: data.layers[state.layer], depth: depth(),
    timestep: data.timesteps[state.timestep].name, sigma: data.timesteps[state.timestep].sigma, at: state.timestep / data.timesteps.length,
    kind: shown().kind, label: shown().label, occurrence: same.indexOf(shown()),
    down: (row + 0.5) / rows, across: (col + 0.5) / cols, hovered: state.hoverPlace !== null,
    group: data.groups[state.group], view: state.view, scale: state.scale, strength: state.strength, order: state.order, marks: state.marks,
  };
}

/** Numbers that can be compared; null for what is not known. */
function numbersHere() {
  const entry = shown();
  const maps = Array.from({ length: places }, (_, at) => value(entry, at));
  const mean = maps.reduce((sum, part) => sum + part, 0) / places;
  const regions = ["I2I", "I2T", "T2I", "T2T"];
  const mass = (region) => {
    const { layers, budget } = data.curves;
    const layer = layers.indexOf(data.layers[state.layer]);
    return budget === null || layer < 0 ? null : budget[state.timestep][layer][state.group][regions.indexOf(region)];
  };
  return [
    { name: `“${entry.label}” at the pixel (I2T)`, value: value(entry, place()) },
    { name: `“${entry.label}” of the whole image's attention`, value: mean },
    { name: "image to text, this layer (I2T)", value: mass("I2T") },
    { name: "text to image, this layer (T2I)", value: mass("T2I") },
  ];
}

/** Tell the page around this one what is chosen; ``followed``: it was chosen in the other. */
function tellChosen() {
  if (!beside) return;
  const where = `layer ${data.layers[state.layer]}, ${timestepName(state.timestep)}`;
  const shownNow = { chosen: chosenHere(), numbers: numbersHere(), where, followed: state.followed, drawn: document.body.dataset.drawn };
  window.parent.postMessage({ kind: "mmdit-probe shown", shown: shownNow }, "*");
}

/** The index with the least of a distance. */
const nearest = (items, distance) => items.reduce((best, item, at) => (distance(item, at) < distance(items[best], best) ? at : best), 0);

/** Choose here what was chosen in the other page, as far as it exists here. */
function follow(chosen) {
  const scale = (layer) => (chosen.depth === depth() ? layer : (layer / depth()) * chosen.depth);
  const named = data.timesteps.findIndex(({ name }) => name === chosen.timestep);
  const noise = data.timesteps.every(({ sigma }) => sigma !== null) && chosen.sigma !== null;
  const timestep = named >= 0 ? named : nearest(data.timesteps, ({ sigma }, at) =>
    (noise ? Math.abs(sigma - chosen.sigma) : Math.abs(at / data.timesteps.length - chosen.at)));
  const same = entries.filter((entry) => entry.kind === chosen.kind && entry.label === chosen.label);
  const at = Math.floor(chosen.down * rows) * cols + Math.floor(chosen.across * cols);
  const view = chosen.view === "i2t" || chosen.view in data.regions ? chosen.view : state.view;
  set({
    layer: nearest(data.layers, (layer) => Math.abs(scale(layer) - chosen.layer)), timestep,
    pinnedEntry: same[chosen.occurrence] ?? same[0] ?? state.pinnedEntry, hoverEntry: null,
    hoverPlace: chosen.hovered ? at : null, pinnedPlace: chosen.hovered ? state.pinnedPlace : at,
    group: Math.max(0, data.groups.indexOf(chosen.group)), view,
    scale: chosen.scale, strength: chosen.strength, order: chosen.order, marks: chosen.marks, followed: true,
  });
}

function watchOther() {
  if (!beside) return;
  window.addEventListener("message", (event) => {
    if (event.source !== window.parent) return;
    if (event.data?.kind === "mmdit-probe show") follow(event.data.chosen);
    if (event.data?.kind === "mmdit-probe repeat") set({});
  });
}
