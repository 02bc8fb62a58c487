"use strict";
// Two explorer pages in frames: what is chosen in one is chosen in the other, and their numbers stand side by side.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const frames = [...document.querySelectorAll("iframe")];
const latest = [null, null];

const percent = (share) => `${(100 * share).toFixed(Math.abs(share) < 0.01 ? 2 : 1)}%`;

function cell(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

/** The numbers of both sides; the difference where both are of the same. */
function drawNumbers() {
  const [a, b] = latest;
  if (!a || !b) return;
  $("what").textContent = [a.where, b.where].filter((text, number, all) => all.indexOf(text) === number).join(" | ");
  const rows = a.numbers.map(({ name, value }) => {
    const other = b.numbers.find((found) => found.name === name)?.value ?? null;
    const row = document.createElement("tr");
    const head = cell("th", name);
    head.scope = "row";
    const shown = [value, other].map((share) => cell("td", share === null ? "–" : percent(share)));
    const known = value !== null && other !== null;
    const points = 100 * (other - value);
    const apart = known ? `${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(Math.abs(points) < 1 ? 2 : 1)} points` : "–";
    row.append(head, ...shown, cell("td", apart));
    return row;
  });
  $("numbers").tBodies[0].replaceChildren(...rows);
  document.body.dataset.drawn = `${a.drawn} | ${b.drawn}`;
}

window.addEventListener("message", (event) => {
  const side = frames.findIndex((frame) => frame.contentWindow === event.source);
  if (side < 0 || event.data?.kind !== "mmdit-probe shown") return;
  const before = latest[side];
  latest[side] = event.data.shown;
  const other = frames[1 - side].contentWindow;
  if ($("linked").checked && !event.data.shown.followed && before) other.postMessage({ kind: "mmdit-probe show", chosen: event.data.shown.chosen }, "*");
  else if ($("linked").checked && side === 1 && !before && latest[0]) other.postMessage({ kind: "mmdit-probe repeat" }, "*");
  drawNumbers();
});

$("linked").addEventListener("change", () => {
  if ($("linked").checked) frames[0].contentWindow.postMessage({ kind: "mmdit-probe repeat" }, "*");
});

function showSide(side) {
  document.querySelectorAll("main section").forEach((section, number) => section.toggleAttribute("data-away", number !== side));
  [...$("tabs").children].forEach((tab, number) => tab.setAttribute("aria-pressed", String(number === side)));
}

$("tabs").replaceChildren(...["A", "B"].map((name, side) => {
  const tab = cell("button", name);
  tab.type = "button";
  tab.addEventListener("click", () => showSide(side));
  return tab;
}));
$("differs").replaceChildren(...data.differs.map((line) => cell("li", line)));
showSide(0);
