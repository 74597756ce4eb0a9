// One trial's settings, the table of all trials, and a live page's looking again.

const STATES = {running: "in play", waiting: "in play", promoted: "in play", ended: "ended early", failed: "failed", done: "done"};
const PAGE = 50;

function say(text) {
  byId("said").textContent = text;
}
async function copy(text, words) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // no permission, or an old browser
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  say(words);
}
function confirmOn(button) {
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => button.textContent = before, 1400);
}

// -- one trial

function yamlOf(value) {
  if (typeof value === "number") {
    const text = String(value);
    return text.includes("e") && !text.includes(".") ? text.replace("e", ".0e") : text;
  }
  return /^[A-Za-z][A-Za-z0-9_-]*$/.test(value) && !/^(y|n|yes|no|on|off|true|false|null)$/i.test(value) ? value : JSON.stringify(value);
}
function settingsOf(number) {
  const place = placeOf.get(number), name = `${data.study.slice(0, 80)}.trial-${number}`;
  const space = Object.entries(trials.parameters).map(([key, column]) => [key, column[place]]).filter(([, value]) => value !== null);
  return [
    `name: ${yamlOf(name)}`, `output: ${yamlOf(`runs/${name}`)}`, "space:",
    ...space.map(([key, value]) => `  ${key}: ${yamlOf(value)}`),
    "bounds: {}", "budget: {trials: 1}", "search: {sampler: random}",
    "confirm: {seeds: 1, without_distillation: none}", `trial_seeds: [${trials.seed[place]}]`, "",
  ].join("\n");
}

const detail = byId("detail");
let opener = null, opened = null;
function openTrial(number, from = null) {
  const place = placeOf.get(number);
  if (place === undefined) return;
  [opener, opened] = [from, number];
  const student = onFront.get(number), state = trials.state[place], share = trials.share[place], curve = trials.curve[place];
  byId("detail-title").textContent = `Trial ${number}`;
  byId("detail-shape").textContent = trials.shapes[trials.shape[place]];
  const score = (student || data.near.find(one => one.trial === number) || {test: {}}).test[quality];
  const facts = [
    ["State", `${STATES[state]}${share < 1 && share ? `, after ${percent(share, 0)} of its training` : ""}${student ? ", on the front" : ""}`],
    ["Begun from", trials.start[number]],
    ...Object.keys(data.scores).map(name => [`Validation ${title(name)}`, scored(name, valueOf(number, name))]),
    [`Test ${title(quality)}`, score && `${scored(quality, score.mean)} over ${score.seeds} seed${score.seeds === 1 ? "" : "s"}`],
    ["95\u00a0% interval", score && isKnown(score.low) && `${scored(quality, score.low)} to ${scored(quality, score.high)}`],
    ["Of the teacher", student && isKnown(student.of_teacher) && percent(student.of_teacher)],
    ...Object.keys(data.costs).map(name => [capital(title(name)), costs(name, valueOf(number, name))]),
    ["Trained", trials.seconds[place] ? `${duration(trials.seconds[place])}${trials.tokens[place] ? `, ${count(trials.tokens[place])} tokens` : ""}` : ""],
    ["By rung", curve.length > 2 && curve.filter((_, i) => i % 2 === 0).map((rung, i) => `${percent(rung, 0)}: ${scored(quality, curve[2 * i + 1])}`).join(", ")],
    ["Error", trials.error[number]],
  ];
  byId("detail-facts").replaceChildren(...facts.filter(([, text]) => text).flatMap(([name, text]) => {
    const term = document.createElement("dt"), said = document.createElement("dd");
    [term.textContent, said.textContent] = [name, text];
    return [term, said];
  }));
  byId("detail-config").textContent = settingsOf(number);
  byId("detail-command").textContent = student ? `distilsearch run best/trial-${number}.yaml` : `distilsearch run trial-${number}.yaml`;
  byId("detail-how").textContent = student
    ? "From the folder of this report, once the study has delivered its front. The settings say the same, for a copy of the study file."
    : `Only the weights of the front are kept. Copy the study file as trial-${number}.yaml, let these settings replace those of the same name, and run it: same data, same seed.`;
  if (!detail.open) detail.show();
  detail.scrollTop = 0;
  byId("detail-title").focus({preventScroll: true});
  markChosen();
}
function closeTrial() {
  if (!detail.open) return;
  detail.close();
  opened = null;
  markChosen();
  if (opener && opener.isConnected) opener.focus({preventScroll: true});
}
byId("detail-close").addEventListener("click", closeTrial);
document.addEventListener("keydown", event => event.key === "Escape" && closeTrial());
for (const button of document.querySelectorAll(".copy"))
  button.addEventListener("click", () => copy(byId(button.dataset.copies).textContent, "Copied").then(() => confirmOn(button)));
for (const button of document.querySelectorAll(".open"))  // of the answers, and of the front's table
  button.addEventListener("click", () => openTrial(Number(button.dataset.trial), button));

// -- all trials

const searched = Object.entries(trials.parameters).filter(([, column]) => new Set(column).size > 1);
const COLUMNS = [
  {key: "trial", isWord: true, value: place => trials.number[place], text: value => value},
  {key: "state", isWord: true, value: place => stateOf(place), text: value => value},
  ...(Object.keys(trials.start).length ? [{key: "recipe", isWord: true, value: place => trials.start[trials.number[place]] ?? null, text: value => value}] : []),
  ...Object.keys(data.scores).map(name => ({key: name, title: title(name), value: place => trials.values[name][place], text: value => scored(name, value)})),
  ...Object.keys(data.costs).map(name => ({key: name, title: title(name), value: place => trials.values[name][place], text: value => costs(name, value)})),
  ...(data.rungs.length > 1 ? [{key: "trained", value: place => trials.share[place] || null, text: value => percent(value, 0)}] : []),
  {key: "seconds", title: "time", value: place => trials.seconds[place] || null, text: duration},
  ...searched.map(([name, column]) => ({
    key: name, title: name.replaceAll("_", " "), isWord: column.some(value => typeof value === "string"), value: place => column[place],
    text: value => typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(3))) : String(value),
  })),
];
const stateOf = place => onFront.has(trials.number[place]) ? "front" : STATES[trials.state[place]];
const shown = {sort: "trial", isFalling: false, page: 0};
const order = (one, other) => typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other));

function found() {
  const wanted = byId("state").value, words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const column = COLUMNS.find(one => one.key === shown.sort), sign = shown.isFalling ? -1 : 1;
  return trials.number.map((_, place) => place)
    .filter(place => wanted === "all" || wanted === stateOf(place) || (wanted === "recipe" && trials.number[place] in trials.start))
    .filter(place => {
      if (!words.length) return true;
      const text = [...COLUMNS.map(one => one.value(place)), trials.shapes[trials.shape[place]], trials.error[trials.number[place]]]
        .filter(value => value !== null && value !== undefined).join(" ").toLowerCase();
      return words.every(word => text.includes(word));
    })
    .sort((a, b) => {
      const one = column.value(a), other = column.value(b);
      if (one === null || other === null) return (one === null) - (other === null) || a - b;  // what is not known comes last
      return sign * order(one, other) || a - b;
    });
}
function listTrials() {
  const places = found(), pages = Math.max(1, Math.ceil(places.length / PAGE));
  shown.page = Math.min(shown.page, pages - 1);
  const here = places.slice(shown.page * PAGE, (shown.page + 1) * PAGE), body = document.createElement("tbody");
  for (const place of here) {
    const number = trials.number[place], line = body.insertRow();
    line.dataset.trial = number;
    for (const column of COLUMNS) {
      const value = column.value(place), cell = line.insertCell(), text = value === null || value === undefined ? "" : column.text(value);
      if (column.isWord) cell.className = "word";
      if (column.key === "trial") {
        const button = document.createElement("button");
        Object.assign(button, {type: "button", className: "open", textContent: text});
        button.setAttribute("aria-label", `Trial ${number}: settings`);
        cell.append(button);
      } else if (column.key === "state") {
        const mark = document.createElement("span");
        Object.assign(mark, {className: `state ${value === "front" ? "front" : trials.state[place]}`, textContent: text});
        cell.append(mark);
      } else cell.textContent = text;
    }
  }
  if (!here.length) {
    const cell = body.insertRow().insertCell();
    Object.assign(cell, {colSpan: COLUMNS.length, className: "empty", textContent: trials.number.length ? "No trial is like this." : "No trial has begun."});
  }
  const table = byId("trials-table");
  table.replaceChildren(table.tHead, body);
  for (const cell of table.tHead.rows[0].cells) {
    if (cell.dataset.key === shown.sort) cell.setAttribute("aria-sort", shown.isFalling ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  const from = shown.page * PAGE + 1;
  byId("trials-count").textContent = places.length > PAGE ? `${from} to ${from + here.length - 1} of ${places.length}` : `${places.length} of ${trials.number.length}`;
  byId("previous").disabled = shown.page === 0;
  byId("next").disabled = shown.page >= pages - 1;
  markChosen();
}
function markChosen() {
  for (const line of document.querySelectorAll("#trials-table tr[data-trial]"))
    line.classList.toggle("chosen", Number(line.dataset.trial) === opened);
}
function asText(separator) {
  const quoted = value => {
    const text = value === null || value === undefined ? "" : String(value);
    const safe = /^[=+@\t\r]|^-(?![\d.])/.test(text) ? "'" + text : text;  // a spreadsheet would run it
    return /[",\t\r\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  const lines = found().map(place => [...COLUMNS.map(column => column.value(place)), trials.seed[place], trials.shapes[trials.shape[place]]]);
  const head = [...COLUMNS.map(column => column.key), "seed", "architecture"];
  return [head, ...lines].map(line => line.map(quoted).join(separator)).join("\n") + "\n";
}
function setUpTable() {
  const head = byId("trials-table").createTHead().insertRow();
  for (const column of COLUMNS) {
    const cell = document.createElement("th"), button = document.createElement("button");
    Object.assign(cell, {scope: "col", className: column.isWord ? "word" : ""});
    cell.dataset.key = column.key;
    Object.assign(button, {type: "button", textContent: column.title || column.key});
    button.addEventListener("click", () => {
      shown.isFalling = shown.sort === column.key ? !shown.isFalling : column.key in data.scores;
      [shown.sort, shown.page] = [column.key, 0];
      listTrials();
    });
    cell.append(button);
    head.append(cell);
  }
  const counts = {};
  trials.number.forEach((_, place) => counts[stateOf(place)] = (counts[stateOf(place)] || 0) + 1);
  const choices = [["all", `all ${trials.number.length}`], ...Object.entries(counts).map(([name, many]) => [name, `${name} (${many})`])];
  if (Object.keys(trials.start).length) choices.push(["recipe", `recipes (${Object.keys(trials.start).length})`]);
  byId("state").append(...choices.map(([value, text]) => new Option(text, value)));
  for (const [name, kind] of [["filter", "input"], ["state", "change"]])
    byId(name).addEventListener(kind, () => {
      shown.page = 0;
      listTrials();
    });
  byId("previous").addEventListener("click", () => { shown.page--; listTrials(); });
  byId("next").addEventListener("click", () => { shown.page++; listTrials(); });
  for (const [name, separator] of [["copy-csv", ","], ["copy-tsv", "\t"]])
    byId(name).addEventListener("click", () => copy(asText(separator), `${found().length} trials copied`).then(() => confirmOn(byId(name))));
  byId("trials-table").addEventListener("click", event => {
    const line = event.target.closest("tr[data-trial]");
    if (line && !String(getSelection())) openTrial(Number(line.dataset.trial), line.querySelector(".open"));
  });
}

// -- choices above the charts

function choice(host, words, options, key, redraw) {
  if (options.length < 2) return;
  const label = document.createElement("label"), select = document.createElement("select");
  select.append(...options.map(([value, text]) => new Option(text, value, false, chosen[key] === value)));
  select.addEventListener("change", () => {
    chosen[key] = select.value;
    redraw();
  });
  label.append(words + " ", select);
  byId(host).append(label);
}
function setUpChoices() {
  choice("front-controls", "Size as", Object.entries(data.costs), "x", drawFront);
  if (frontRange(quality, true)[0] < frontRange(quality, false)[0]) {
    const label = document.createElement("label"), box = document.createElement("input");
    Object.assign(box, {type: "checkbox", id: "everything", checked: chosen.everything});
    box.addEventListener("change", () => {
      chosen.everything = box.checked;
      drawFront();
    });
    label.append(box, " far trials too");
    byId("front-controls").append(label);
  }
  choice("course-controls", "Over", Object.entries(COURSE).map(([key, [words]]) => [key, words.toLowerCase()]), "course", drawCourse);
}
function drawAll() {
  drawFront();
  if (data.rungs.length > 1) drawCurves();
  if ("latency_ms" in data.costs) drawLatency();
  drawCourse();
}

// -- a live page: looks again, and keeps the reader's place

const kept = `distilsearch:${data.study}`;
function remember() {
  const place = {scroll: scrollY, filter: byId("filter").value, state: byId("state").value, shown, chosen, opened};
  sessionStorage.setItem(kept, JSON.stringify(place));
}
function recall() {
  const place = JSON.parse(sessionStorage.getItem(kept) || "null");
  sessionStorage.removeItem(kept);
  if (!place) return;
  history.scrollRestoration = "manual";
  Object.assign(shown, place.shown);
  Object.assign(chosen, place.chosen);
  byId("filter").value = place.filter;
  if ([...byId("state").options].some(option => option.value === place.state)) byId("state").value = place.state;
  return place;
}
async function lookAgain(first) {
  let version = first;
  try {
    if (!document.hidden) version = await (await fetch("version", {cache: "no-store"})).text();
    byId("live").textContent = "Live: follows the study.";
  } catch {
    byId("live").textContent = "No longer live: nobody answers.";
  }
  if (first && version !== first) {
    remember();
    location.reload();
  } else setTimeout(lookAgain, 3000, version);
}

setUpTable();
const isLive = document.documentElement.dataset.live === "live";
const before = isLive ? recall() : null;
setUpChoices();
frontLegend();
drawAll();
listTrials();
if (before) {
  if (before.opened !== null) openTrial(before.opened);
  scrollTo({top: before.scroll, behavior: "instant"});
}
let waiting = 0;
new ResizeObserver(() => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(drawAll);
}).observe(document.querySelector("main"));
if (isLive) lookAgain("");
