// The report's charts, each from the page's data.

const quality = Object.keys(data.scores)[0];
const onFront = new Map(data.front.map(student => [student.trial, student]));
const chosen = {x: Object.keys(data.costs)[0], course: "minutes", everything: false};
const valueOf = (trial, name) => (trials.values[name] || [])[placeOf.get(trial)];
const title = name => name in data.costs ? data.costs[name] : data.scores[name];
const capital = text => text.charAt(0).toUpperCase() + text.slice(1);
const tested = student => student.test[quality];

function interval(score) {
  if (!score) return "";
  const ends = isKnown(score.low) ? `, 95\u00a0% interval ${scored(quality, score.low)} to ${scored(quality, score.high)}` : "";
  return `test ${title(quality)} ${scored(quality, score.mean)}${ends} (${score.seeds} seed${score.seeds === 1 ? "" : "s"})`;
}
function linesOf(number, x) {
  const place = placeOf.get(number), student = onFront.get(number), start = trials.start[number];
  const share = trials.share[place], state = trials.state[place];
  return [
    `Trial ${number}${start ? `: ${start}` : ""}${number === data.knee ? ", the knee" : ""}`,
    `${title(quality)} ${scored(quality, valueOf(number, quality))} on validation`,
    student ? interval(tested(student)) : "",
    `${costs(x, valueOf(number, x))} ${x === "latency_ms" || x.includes("bytes") ? "" : title(x)}`.trim(),
    state === "done" ? "" : share ? `${state} after ${percent(share, 0)} of its training` : state,
  ];
}

// -- the front

function frontRange(name, everything) {
  const values = [], held = data.references.filter(reference => reference.name !== "majority");
  for (const student of data.front) values.push(valueOf(student.trial, name));
  for (const student of [...data.front, ...data.near]) {
    const score = student.test[name];
    if (score) values.push(score.mean, score.low, score.high);
  }
  for (const reference of held) values.push(reference.values[name]);
  for (const number of Object.keys(trials.start)) values.push(valueOf(Number(number), name));
  let known = values.filter(isKnown);
  const all = (trials.values[name] || []).filter(isKnown);
  if (everything || !data.front.length) known = known.concat(all);
  if (!known.length) known = [0, 1];
  let low = known.reduce((a, b) => Math.min(a, b)), high = known.reduce((a, b) => Math.max(a, b));
  const room = Math.max(high - low, 0.02);
  for (const value of [...all, ...data.references.map(reference => reference.values[name])])
    if (isKnown(value) && value < low && value >= low - room / 3) low = value;
  const isShare = data.shares.includes(name);
  return [isShare ? Math.max(low - 0.1 * room, -1) : low - 0.1 * room, isShare ? Math.min(high + 0.12 * room, 1.02) : high + 0.12 * room];
}
function costRange(name) {
  const known = trials.values[name].filter(value => value > 0);
  for (const reference of data.references)
    if (reference.name.startsWith("teacher") && reference.values[name] > 0) known.push(reference.values[name]);
  if (!known.length) known.push(1e6, 1e8);
  let low = known.reduce((a, b) => Math.min(a, b)), high = known.reduce((a, b) => Math.max(a, b));
  const room = Math.max(Math.log10(high / low), 0.3);
  const words = data.references.find(reference => reference.name === "ngrams");
  if (words && words.values[name] > 0 && Math.log10(low / words.values[name]) < room / 2) low = Math.min(low, words.values[name]);
  const pad = 10 ** (0.07 * room);
  return [low / pad, high * pad];
}
const scoreText = (name, low, high) => tick => data.shares.includes(name) ? percent(tick, high - low > 0.05 ? 0 : 1) : plain(tick);

function drawFront() {
  const x = chosen.x, [low, high] = frontRange(quality, chosen.everything), [left, right] = costRange(x);
  const held = {left, right, low, high};
  draw(byId("front-chart"), {
    label: `Size against quality. Arrow keys go through the front's ${data.front.length} students, Enter opens one.`,
    x: {low: left, high: right, log: true, title: `${capital(title(x))}, log scale`, text: tick => costTick(x, tick)},
    y: {low, high, title: `${capital(title(quality))}, validation and test`, text: scoreText(quality, low, high)},
    paint: chart => paintFront(chart, x, held),
  });
}
function paintFront(chart, x, range) {
  const {body, frame, at, marks, labels} = chart;
  const students = data.front.map(student => ({...student, x: valueOf(student.trial, x), y: valueOf(student.trial, quality)}))
    .filter(student => isKnown(student.x) && isKnown(student.y)).sort((one, other) => one.x - other.x);
  const isPlane = data.objectives.length === 2 && data.objectives.includes(x) && data.objectives.includes(quality);
  const px = student => at.x(student.x), py = value => at.y(value);
  const labelBounds = paintBounds(chart, x, range);
  if (isPlane && students.length) {
    let line = `M${px(students[0])},${py(students[0].y)}`;
    for (const student of students.slice(1)) line += `H${px(student)}V${py(student.y)}`;
    element("path", {d: `${line}H${frame.right}V${frame.bottom}H${px(students[0])}Z`, class: "front-area"}, body);
    element("path", {d: `${line}H${frame.right}`, class: "front-line"}, body);
    students.forEach((student, i) => {
      const next = students[i + 1], until = next ? px(next) : frame.right;
      labels.keepLineFree(px(student), py(student.y), until, py(student.y));
      if (next) labels.keepLineFree(until, py(student.y), until, py(next.y));
    });
  }
  for (const student of students) labels.keepFree(px(student), py(student.y), 7);
  for (let place = 0; place < trials.number.length; place++) {
    const number = trials.number[place], value = trials.values[quality][place], size = trials.values[x][place];
    if (!isKnown(value) || !isKnown(size) || onFront.has(number) || !trials.share[place]) continue;
    const mark = {x: at.x(size), y: at.y(value), lines: linesOf(number, x), trial: number};
    if (mark.y > frame.bottom + 1) continue;
    const start = trials.start[number];
    if (start) symbol(body, "triangle", mark.x, mark.y, 6.5, "recipe");
    else symbol(body, "dot", mark.x, mark.y, 3.6, trials.state[place] === "done" ? "trial" : "partial");
    if (start) mark.weight = 4;
    if (start) labels.keepFree(mark.x, mark.y, 6);
    marks.push(mark);
  }
  for (const student of [...data.near, ...students]) {
    const score = tested(student);
    if (!score) continue;
    const place = at.x(valueOf(student.trial, x)), isNear = !onFront.has(student.trial);
    if (isKnown(score.low))
      element("path", {d: `M${place},${at.y(score.low)}V${at.y(score.high)}M${place - 4},${at.y(score.low)}h8M${place - 4},${at.y(score.high)}h8`,
        class: "whisker"}, body);
    if (isKnown(score.low)) labels.keepLineFree(place - 4, at.y(score.low), place + 4, at.y(score.high));
    symbol(body, "diamond", place, at.y(score.mean), 5, isNear ? "near" : "test");
    labels.keepFree(place, at.y(score.mean), 5);
    marks.push({x: place, y: at.y(score.mean), trial: student.trial,
      lines: [`Trial ${student.trial} on test${isNear ? ", near the front" : ""}`, interval(score)]});
  }
  for (const reference of data.references) {
    const value = reference.values[quality], size = reference.values[x];
    if (!isKnown(value) || !(size > 0) || size < range.left || size > range.right || value < range.low) continue;
    const shape = reference.name.startsWith("teacher") ? "star" : "square";
    const mark = {x: at.x(size), y: at.y(value), weight: 4, lines: [reference.label, `${title(quality)} ${scored(quality, value)}`, costs(x, size)]};
    symbol(body, shape, mark.x, mark.y, 4.5, reference.name === "teacher_cut" ? "held-open" : "held");
    labels.keepFree(mark.x, mark.y, 8);
    marks.push(mark);
  }
  for (const student of students) {
    const group = element("g"), mark = {x: px(student), y: py(student.y), trial: student.trial, weight: 6, lines: linesOf(student.trial, x)};
    const isRecipe = student.trial in trials.start;
    symbol(group, isRecipe ? "triangle" : "dot", mark.x, mark.y, isRecipe ? 7.5 : 6, "front");
    if (student.trial === data.knee) symbol(group, "dot", mark.x, mark.y, 10.5, "knee");
    group.mark = mark;
    chart.buttons.push(group);
    marks.push(mark);
  }
  labelBounds();
  paintFloors(chart, range);
  for (const reference of data.references) {
    const mark = marks.find(one => one.lines[0] === reference.label);
    if (mark) labels.put(reference.label, around(mark.x, mark.y, 11), "of-held");
  }
  for (const student of students) {
    const start = trials.start[student.trial], places = around(px(student), py(student.y), student.trial === data.knee ? 12 : 9);
    const isNamed = start && labels.put(`${student.trial} ${start}`, places, "strong of-front");
    if (!isNamed) labels.put(String(student.trial), places, "strong of-front");
  }
  for (const [number, start] of Object.entries(trials.start)) {
    const mark = marks.find(one => one.trial === Number(number) && one.weight === 4);
    if (mark) labels.put(start, around(mark.x, mark.y, 9), "of-recipe");
  }
}
function paintFloors(chart, range) {
  const {body, frame, at, labels} = chart;
  for (const name of ["ngrams", "majority"]) {
    const reference = data.references.find(one => one.name === name), value = reference && reference.values[quality];
    if (!isKnown(value)) continue;
    const words = `${reference.label} ${scored(quality, value)}`, isBelow = value < range.low;
    const y = isBelow ? frame.bottom : at.y(value);
    if (!isBelow) {
      element("line", {x1: frame.left, x2: frame.right, y1: y, y2: y, class: "floor-line"}, body);
      labels.keepLineFree(frame.left, y, frame.right, y);
    }
    labels.put(isBelow ? `↓ ${words}` : words, alongside(frame, y, "end").filter(place => place[1] < frame.bottom), "", true);
  }
}
// Places for a label on a level line: at one end or the other, above it or below.
function alongside(frame, y, first) {
  const ends = {start: frame.left + 6, end: frame.right}, other = first === "start" ? "end" : "start";
  return [[ends[first], y - 5, first], [ends[first], y + 14, first], [ends[other], y - 5, other], [ends[other], y + 14, other],
    [(frame.left + frame.right) / 2, y - 5, "middle"], [(frame.left + frame.right) / 2, y + 14, "middle"]];
}
// Draws the lines; their labels come once it is known what they must not cover.
function paintBounds(chart, x, range) {
  const {body, frame, at, labels} = chart, later = [];
  for (const [name, limits] of Object.entries(data.bounds))
    limits.forEach((limit, isMost) => {
      if (!isKnown(limit) || (name !== x && name !== quality)) return;
      const word = `${isMost ? "at most" : "at least"} ${name === x ? costs(x, limit) : scored(quality, limit)}`;
      if (name === x) {
        if (limit < range.left || limit > range.right) return;
        const place = at.x(limit), from = isMost ? place : frame.left;
        element("rect", {x: from, y: frame.top, width: (isMost ? frame.right : place) - from, height: frame.bottom - frame.top, class: "out"}, body);
        element("line", {x1: place, x2: place, y1: frame.top, y2: frame.bottom, class: "bound-line"}, body);
        labels.keepLineFree(place, frame.top, place, frame.bottom);
        const above = frame.top - 6;
        later.push(() => labels.put(word, [[place, above, "middle"], [place - 4, above, "end"], [place + 4, above, "start"]], "of-bound", true));
      } else {
        if (limit < range.low || limit > range.high) return;
        const place = at.y(limit), from = isMost ? frame.top : place;
        element("rect", {x: frame.left, y: from, width: frame.right - frame.left, height: (isMost ? place : frame.bottom) - from, class: "out"}, body);
        element("line", {x1: frame.left, x2: frame.right, y1: place, y2: place, class: "bound-line"}, body);
        labels.keepLineFree(frame.left, place, frame.right, place);
        later.push(() => labels.put(word, alongside(frame, place, "start"), "of-bound", true));
      }
    });
  return () => later.forEach(put => put());
}
function frontLegend() {
  const states = new Set(trials.state), entries = [];
  if (data.front.length) entries.push(["dot", 5.5, "front", "the front, on validation"]);
  if (data.front.some(tested)) entries.push(["diamond", 5, "test", "the same students on test, 95\u00a0% interval"]);
  if (data.near.some(tested)) entries.push(["diamond", 5, "near", "near the front, on test"]);
  if (Object.keys(trials.start).length) entries.push(["triangle", 6, "recipe", "textbook recipes"]);
  entries.push(["dot", 4, "trial", "other trials"]);
  if (states.size && [...states].some(state => state !== "done" && state !== "failed")) entries.push(["dot", 4, "partial", "not trained to the end"]);
  entries.push(["star", 8, "held", "the teacher"]);
  if (data.references.some(one => one.name === "teacher_cut")) entries.push(["star", 8, "held-open", "with its vocabulary cut"]);
  if (Object.values(data.bounds).some(limits => limits.some(isKnown))) entries.push(["line", 0, "bound-line", "the bounds asked for"]);
  legend(byId("front-legend"), entries);
}

// -- learning curves, latency, and the hypervolume's course

function drawCurves() {
  const values = trials.curve.flatMap(curve => curve.filter((_, place) => place % 2)).filter(isKnown).sort((one, other) => one - other);
  if (!values.length) return;
  // Who hardly learnt at all may lie below; whoever was trained to the end does not.
  const whole = trials.curve.filter((_, place) => trials.state[place] === "done").flatMap(curve => curve.filter((_, place) => place % 2));
  const best = values.at(-1), least = Math.min(values[Math.floor(values.length / 20)], ...whole.filter(isKnown)), room = Math.max(best - least, 0.02);
  const low = least - 0.05 * room, high = best + 0.08 * room;
  draw(byId("curves-chart"), {
    label: `${capital(title(quality))} of each trial over its training; trials that ended early are faint.`,
    x: {low: 0, high: 1.02, title: "Share of the training", ticks: [0, ...data.rungs], text: tick => percent(tick, 0)},
    y: {low, high, title: `${capital(title(quality))} on validation`, text: scoreText(quality, low, high)},
    paint: ({body, at, marks, frame}) => {
      for (const rung of data.rungs) element("line", {x1: at.x(rung), x2: at.x(rung), y1: frame.top, y2: frame.bottom, class: "grid"}, body);
      const paths = {curve: "", "curve done": "", "curve best": ""}, ends = [];
      trials.curve.forEach((curve, place) => {
        const number = trials.number[place], state = trials.state[place], points = [];
        for (let i = 0; i < curve.length; i += 2) if (isKnown(curve[i + 1])) points.push([at.x(curve[i]), at.y(curve[i + 1]), curve[i]]);
        if (!points.length) return;
        const name = onFront.has(number) ? "curve best" : state === "done" ? "curve done" : "curve";
        paths[name] += "M" + points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");
        const [x, y] = points.at(-1);
        ends.push([state, x, y, name]);
        for (const [px, py, share] of points)
          marks.push({x: px, y: py, trial: number, weight: onFront.has(number) ? 3 : 0,
            lines: [`Trial ${number}`, `${scored(quality, curve[curve.indexOf(share) + 1])} after ${percent(share, 0)}`, `now ${state}`]});
      });
      for (const [name, path] of Object.entries(paths)) if (path) element("path", {d: path, class: name}, body);
      for (const [state, x, y, name] of ends) {
        if (state === "failed") symbol(body, "cross", x, y, 3.5, "failed");
        else if (state === "done") symbol(body, "dot", x, y, name === "curve best" ? 4.5 : 2.5, "front");
        else symbol(body, "dot", x, y, 2.6, "end");
      }
    },
  });
  legend(byId("curves-legend"), [...(onFront.size ? [["line", 0, "curve best", "the front"]] : []),
    ...(whole.length ? [["line", 0, "curve done", "trained to the end"]] : []), ["dot", 3.5, "end", "ended, or waiting, here"], ...(trials.state.includes("failed") ? [["cross", 4, "failed", "failed after this"]] : [])]);
}

function drawLatency() {
  const x = "parameters", y = "latency_ms", sizes = costRange(x), times = costRange(y);
  const teacher = data.references.find(reference => reference.name === "teacher" && reference.values[y] > 0);
  draw(byId("latency-chart"), {
    label: "Parameters against latency, of each shape that was measured",
    x: {low: sizes[0], high: sizes[1], log: true, title: "Parameters, log scale", text: tick => costTick(x, tick)},
    y: {low: times[0], high: times[1], log: true, title: "Latency in ms, log scale", text: plain},
    paint: chart => {
      const {body, at, marks, labels} = chart;
      const add = (number, size, name) => {
        const place = placeOf.get(number), mark = {x: at.x(trials.values[x][place]), y: at.y(trials.values[y][place]), trial: number, weight: name === "front" ? 3 : 0};
        mark.lines = [`Trial ${number}`, costs(y, trials.values[y][place]), `${count(trials.values[x][place])} parameters`];
        symbol(body, "dot", mark.x, mark.y, size, name);
        marks.push(mark);
        if (name === "front") labels.put(String(number), around(mark.x, mark.y, 9), "strong of-front");
      };
      const known = trials.number.filter(number => isKnown(valueOf(number, y)));
      for (const number of known) if (!onFront.has(number)) add(number, 3.6, "trial");
      for (const number of known) if (onFront.has(number)) add(number, 6, "front");
      if (teacher) {
        const mark = {x: at.x(teacher.values[x]), y: at.y(teacher.values[y]), weight: 4, lines: [teacher.label, costs(y, teacher.values[y])]};
        symbol(body, "star", mark.x, mark.y, 8, "held");
        marks.push(mark);
        labels.put(teacher.label, around(mark.x, mark.y, 11), "of-held");
      }
    },
  });
  const noises = Object.values(trials.latency_noise).filter(isKnown).sort((one, other) => one - other);
  const noise = noises.length ? ` A latency may be off by ${percent(noises[Math.floor(noises.length / 2)])} (median over the shapes).` : "";
  byId("latency-note").textContent = `Each shape is measured once, whatever its weights.${noise}`;
}

const COURSE = {minutes: ["Minutes of training", tick => plain(tick)], finished: ["Trials finished", tick => plain(tick)]};
function drawCourse() {
  const xs = data.course[chosen.course], ys = data.course.hypervolume, [words, text] = COURSE[chosen.course];
  const high = Math.max(...ys, 0.001);
  draw(byId("course-chart"), {
    label: `Hypervolume of the front over ${words.toLowerCase()}: ${plain(ys.at(-1))} at the end`,
    x: {low: 0, high: Math.max(xs.at(-1), 1e-3), title: words, text},
    y: {low: 0, high: 1.08 * high, title: "Hypervolume", text: plain},
    paint: ({body, at, marks, frame}) => {
      let line = `M${at.x(xs[0])},${at.y(ys[0])}`;
      for (let i = 1; i < xs.length; i++) line += `H${at.x(xs[i])}V${at.y(ys[i])}`;
      element("path", {d: `${line}V${frame.bottom}Z`, class: "front-area"}, body);
      element("path", {d: line, class: "front-line"}, body);
      xs.forEach((value, i) => {
        if (i) symbol(body, "dot", at.x(value), at.y(ys[i]), xs.length > 60 ? 2.2 : 3.6, "front");
        marks.push({x: at.x(value), y: at.y(ys[i]), lines: [`Hypervolume ${plain(ys[i])}`, `after ${duration(60 * data.course.minutes[i])} of training`, `${data.course.finished[i]} finished`]});
      });
    },
  });
}
