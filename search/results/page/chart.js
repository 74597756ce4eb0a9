// The drawing kit: numbers in words, axes, marks that can be hovered and chosen, labels that do not overlap.

const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
for (const [name, column] of Object.entries(data.trials.parameters)) {
  if (column.words) data.trials.parameters[name] = column.at.map(place => column.words[place]);
}
const trials = data.trials;
const placeOf = new Map(trials.number.map((number, place) => [number, place]));
const isKnown = value => typeof value === "number";
const narrow = matchMedia("(max-width: 640px)");

// -- numbers in words

function count(value) {
  if (value >= 999.5e6) return (value / 1e9).toFixed(1) + "\u00a0G";
  if (value >= 999500) return (value / 1e6).toFixed(1) + "\u00a0M";
  return value >= 1000 ? Math.round(value / 1000) + "\u00a0k" : String(Math.round(value));
}
const percent = (value, digits = 1) => (100 * value).toFixed(digits) + "\u00a0%";
const plain = value => String(Number(value.toPrecision(4)));
const scored = (name, value) => !isKnown(value) ? "" : data.shares.includes(name) ? percent(value) : plain(value);
function costs(name, value) {
  if (!isKnown(value)) return "";
  if (name === "latency_ms") return value.toFixed(value < 100 ? 2 : 0) + "\u00a0ms";
  return name.includes("bytes") ? (value / 1e6).toFixed(1) + "\u00a0MB" : count(value);
}
const costTick = (name, value) => costs(name, value).replace(/\.0+(?=\D)/, "").replace(/(\.\d*?)0+(?=\D)/, "$1");
function duration(seconds) {
  if (seconds < 120) return seconds.toFixed(seconds < 10 ? 1 : 0) + "\u00a0s";
  return seconds < 7200 ? (seconds / 60).toFixed(0) + "\u00a0min" : (seconds / 3600).toFixed(1) + "\u00a0h";
}

// -- axes

function niceStep(span, most) {
  const rough = span / most, power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find(step => step * power >= rough * 0.999);
}
function linearTicks(low, high, most) {
  const step = niceStep(high - low || 1, most), ticks = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) ticks.push(at * step);
  return ticks;
}
function logTicks(low, high, most) {
  if (high / low < 3) return linearTicks(low, high, most);
  for (const steps of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const step of steps) {
        const tick = step * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
    if (ticks.length <= most) return ticks;
  }
  return linearTicks(low, high, most);
}
function scale({low, high, log}, from, to) {
  const turn = log ? Math.log10 : value => value;
  const start = turn(low), span = turn(high) - start || 1;
  return value => from + (turn(value) - start) / span * (to - from);
}

// -- SVG

function element(name, attributes = {}, parent = null, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}
const polygon = (x, y, corners) => corners.map(([a, b]) => `${x + a},${y + b}`).join(" ");
const STAR = Array.from({length: 10}, (_, i) => {
  const radius = i % 2 ? 3.4 : 8, angle = Math.PI * (i / 5 - 0.5);
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
});
const SHAPES = {
  dot: (x, y, size) => ["circle", {cx: x, cy: y, r: size}],
  diamond: (x, y, size) => ["polygon", {points: polygon(x, y, [[0, -size], [size, 0], [0, size], [-size, 0]])}],
  triangle: (x, y, size) => ["polygon", {points: polygon(x, y, [[0, -size], [size, size * 0.8], [-size, size * 0.8]])}],
  square: (x, y, size) => ["rect", {x: x - size, y: y - size, width: 2 * size, height: 2 * size}],
  star: (x, y) => ["polygon", {points: polygon(x, y, STAR)}],
  cross: (x, y, size) => ["path", {d: `M${x - size},${y - size}L${x + size},${y + size}M${x - size},${y + size}L${x + size},${y - size}`}],
};
function symbol(parent, shape, x, y, size, name) {
  const [tag, attributes] = SHAPES[shape](x, y, size);
  return element(tag, {...attributes, class: name}, parent);
}
function legend(host, entries) {
  host.replaceChildren(...entries.map(([shape, size, name, words]) => {
    const item = document.createElement("li"), mark = element("svg", {"aria-hidden": "true"}, item);
    if (shape === "line") element("path", {d: "M0,7H18", class: name}, mark);
    else symbol(mark, shape, 9, 7, size, name);
    item.append(words);
    return item;
  }));
}

// -- labels: the first free of a few places, or none

const pen = document.createElement("canvas").getContext("2d");
function widthOf(text, size) {
  pen.font = `600 ${size}px system-ui, sans-serif`;
  return pen.measureText(text).width;
}
class Labels {
  constructor(parent, frame) {
    this.parent = parent;
    this.frame = frame;
    this.taken = [];
  }
  keepFree(x, y, size) {
    this.taken.push([x - size, y - size, x + size, y + size]);
  }
  keepLineFree(x1, y1, x2, y2) {
    this.taken.push([Math.min(x1, x2) - 1, Math.min(y1, y2) - 1, Math.max(x1, x2) + 1, Math.max(y1, y2) + 1]);
  }
  // `places` are [x, y, anchor], the best first; a label that `must` stand takes the first of them where none is free.
  put(text, places, name, must = false) {
    const size = narrow.matches ? 11 : 12, wide = widthOf(text, size);
    const boxes = places.map(([x, y, anchor]) => {
      const left = anchor === "end" ? x - wide : anchor === "middle" ? x - wide / 2 : x;
      return [left - 2, y - size + 1, left + wide + 2, y + 4];
    });
    const fits = box => box[0] >= this.frame.left - 2 && box[2] <= this.frame.right + 2 && box[1] >= this.frame.top - 18
      && box[3] <= this.frame.bottom && !this.taken.some(other =>
        box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1]);
    let chosen = boxes.findIndex(fits);
    if (chosen < 0 && must) chosen = 0;
    if (chosen < 0) return false;
    this.taken.push(boxes[chosen]);
    const [x, y, anchor] = places[chosen];
    element("text", {x, y, "text-anchor": anchor, class: name + " cased"}, this.parent, text);
    return true;
  }
}
const around = (x, y, gap) => [
  [x - gap + 3, y - gap + 2, "end"], [x, y - gap - 3, "middle"], [x + gap - 3, y - gap, "start"], [x + gap, y + 4, "start"],
  [x - gap, y + 4, "end"], [x, y + gap + 11, "middle"], [x + gap, y + gap + 9, "start"], [x - gap, y + gap + 9, "end"],
];

// -- a chart

// `plot` says {x, y, label} with axes {low, high, log, title, text} and draws in `paint(chart)`, which may add marks:
// {x, y, lines, trial, weight}, in pixels. Marks are hovered by the pointer, and chosen where they have a trial.
function draw(host, plot) {
  const width = host.clientWidth, height = host.clientHeight;
  if (!width || !height) return;
  const small = narrow.matches;
  const texts = (plot.y.log ? logTicks : linearTicks)(plot.y.low, plot.y.high, Math.max(3, Math.floor(height / 60)));
  const left = 12 + Math.max(...texts.map(tick => widthOf(plot.y.text(tick), small ? 11 : 12)), 20);
  const frame = {left, right: width - (small ? 6 : 14), top: 34, bottom: height - 42};
  const svg = element("svg", {viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": plot.label});
  const at = {x: scale(plot.x, frame.left, frame.right), y: scale(plot.y, frame.bottom, frame.top)};
  const axes = element("g", {"aria-hidden": "true"}, svg);
  for (const tick of texts) {
    element("line", {x1: frame.left, x2: frame.right, y1: at.y(tick), y2: at.y(tick), class: "grid"}, axes);
    element("text", {x: frame.left - 8, y: at.y(tick) + 4, "text-anchor": "end"}, axes, plot.y.text(tick));
  }
  const most = Math.max(2, Math.floor((frame.right - frame.left) / (small ? 62 : 84)));
  const across = plot.x.ticks || (plot.x.log ? logTicks : linearTicks)(plot.x.low, plot.x.high, most);
  for (const tick of across) {
    element("line", {x1: at.x(tick), x2: at.x(tick), y1: frame.bottom, y2: frame.bottom + 5, class: "grid"}, axes);
    const anchor = at.x(tick) > frame.right - 14 ? "end" : "middle";
    element("text", {x: at.x(tick), y: frame.bottom + 18, "text-anchor": anchor}, axes, plot.x.text(tick));
  }
  element("line", {x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom, class: "grid"}, axes);
  element("text", {x: frame.right, y: height - 6, "text-anchor": "end", class: "strong"}, axes, plot.x.title);
  element("text", {x: 0, y: 13, "text-anchor": "start", class: "strong"}, axes, plot.y.title);
  const clip = "clip-" + host.id;
  element("rect", {x: frame.left - 9, y: frame.top - 9, width: frame.right - frame.left + 18, height: frame.bottom - frame.top + 10},
    element("clipPath", {id: clip}, element("defs", {}, svg)));
  const body = element("g", {"clip-path": `url(#${clip})`}, svg);
  const chart = {svg, body, frame, at, marks: [], buttons: [], small};
  chart.labels = new Labels(element("g", {"aria-hidden": "true"}), frame);
  plot.paint(chart);
  svg.append(chart.labels.parent);
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  host.replaceChildren(svg, tip);
  listen(host, chart, tip);
  for (const move of chart.buttons) svg.append(move);
}

function listen(host, chart, tip) {
  const halo = element("circle", {class: "halo", r: 10, visibility: "hidden"}, chart.svg);
  let shown = null;
  function show(mark) {
    shown = mark;
    tip.hidden = !mark;
    halo.setAttribute("visibility", mark ? "visible" : "hidden");
    host.style.cursor = mark && mark.trial !== undefined ? "pointer" : "";
    if (!mark) return;
    halo.setAttribute("cx", mark.x);
    halo.setAttribute("cy", mark.y);
    const [first, ...rest] = mark.lines;
    const title = document.createElement("b");
    title.textContent = first;
    tip.replaceChildren(title, ...rest.filter(Boolean).map(line => {
      const span = document.createElement("span");
      span.textContent = line;
      return span;
    }));
    const box = tip.getBoundingClientRect();
    const beside = mark.x + 16 + box.width > host.clientWidth ? mark.x - 16 - box.width : mark.x + 16;
    tip.style.left = Math.max(0, Math.min(beside, host.clientWidth - box.width)) + "px";
    tip.style.top = Math.max(0, Math.min(mark.y - box.height / 2, host.clientHeight - box.height)) + "px";
  }
  function nearest(event) {
    const box = chart.svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = 20;
    for (const mark of chart.marks) {
      const distance = Math.hypot(mark.x - x, mark.y - y) - (mark.weight || 0);
      if (distance < least) [best, least] = [mark, distance];
    }
    return best;
  }
  chart.svg.addEventListener("pointermove", event => show(nearest(event)));
  chart.svg.addEventListener("pointerleave", () => show(null));
  chart.svg.addEventListener("click", event => {
    const mark = nearest(event);
    if (mark && mark.trial !== undefined) openTrial(mark.trial, chart.svg);
  });
  chart.buttons.forEach((button, place) => {
    const mark = button.mark;
    button.setAttribute("tabindex", place ? -1 : 0);
    button.setAttribute("role", "button");
    button.setAttribute("aria-label", mark.lines.filter(Boolean).join(", "));
    button.addEventListener("focus", () => show(mark));
    button.addEventListener("blur", () => shown === mark && show(null));
    button.addEventListener("keydown", event => {
      const steps = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1};
      if (event.key in steps) {
        const next = chart.buttons[(place + steps[event.key] + chart.buttons.length) % chart.buttons.length];
        button.setAttribute("tabindex", -1);
        next.setAttribute("tabindex", 0);
        next.focus();
      } else if (event.key === "Enter" || event.key === " ") openTrial(mark.trial, button);
      else return;
      event.preventDefault();
    });
  });
}
