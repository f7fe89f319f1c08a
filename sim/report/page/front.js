// The chart of all points, the planned front with its bound, and the budget line.

const SHAPES = {
  circle: (c, x, y, r) => c.arc(x, y, r, 0, 7),
  square: (c, x, y, r) => c.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8),
  up: (c, x, y, r) => { c.moveTo(x, y - r * 1.2); c.lineTo(x + r * 1.1, y + r * 0.8); c.lineTo(x - r * 1.1, y + r * 0.8); c.closePath(); },
  down: (c, x, y, r) => { c.moveTo(x, y + r * 1.2); c.lineTo(x + r * 1.1, y - r * 0.8); c.lineTo(x - r * 1.1, y - r * 0.8); c.closePath(); },
  diamond: (c, x, y, r) => { c.moveTo(x, y - r * 1.3); c.lineTo(x + r * 1.15, y); c.lineTo(x, y + r * 1.3); c.lineTo(x - r * 1.15, y); c.closePath(); },
  plus: (c, x, y, r) => { const a = r * 1.2, b = r * 0.42; c.rect(x - a, y - b, 2 * a, 2 * b); c.rect(x - b, y - a, 2 * b, a - b); c.rect(x - b, y + b, 2 * b, a - b); },
  star: (c, x, y, r) => { for (let k = 0; k < 10; k += 1) { const q = k % 2 ? r * 0.6 : r * 1.4, t = (k * Math.PI) / 5 - Math.PI / 2; c.lineTo(x + q * Math.cos(t), y + q * Math.sin(t)); } c.closePath(); },
  left: (c, x, y, r) => { c.moveTo(x - r * 1.2, y); c.lineTo(x + r * 0.8, y - r * 1.1); c.lineTo(x + r * 0.8, y + r * 1.1); c.closePath(); },
  right: (c, x, y, r) => { c.moveTo(x + r * 1.2, y); c.lineTo(x - r * 0.8, y - r * 1.1); c.lineTo(x - r * 0.8, y + r * 1.1); c.closePath(); },
};
const STRATEGY_COLOURS = {
  reverse_full: "blue", in_order: "blue", reverse_checkpointed: "green", rematerialize: "green", reverse_offload: "purple",
  reorder: "purple", forward_recompute: "vermillion", forward_cached: "orange", jacobian_chain: "sky", vertex_elimination: "yellow",
};
const SERIES_SHAPES = {
  reverse_full: "circle", in_order: "circle", reverse_offload: "down", reorder: "down", forward_recompute: "up",
  forward_cached: "diamond", optimal: "star", rematerialize: "star", binomial: "square", sqrt: "plus", uniform: "diamond", periodic: "up",
};

function stylesOf(points) {
  const styles = new Map(), names = Object.keys(SHAPES);
  const spare = ["green", "sky", "orange", "purple", "blue", "vermillion"];
  for (const { series, strategy } of points) {
    if (styles.has(series)) continue;
    const hue = STRATEGY_COLOURS[strategy] ?? spare[styles.size % spare.length];
    const used = new Set([...styles.values()].filter((x) => x.hue === hue).map((x) => x.shape));
    const wanted = SERIES_SHAPES[series] ?? names[styles.size % names.length];
    styles.set(series, { hue, shape: used.has(wanted) ? names.find((n) => !used.has(n)) ?? wanted : wanted });
  }
  return styles;
}

const HEIGHT = 420;
const PAD = { left: 74, right: 18, top: 30, bottom: 46 };
const CELL = 24;

function frontSection(data, state) {
  const styles = stylesOf(data.points);
  const canvas = h("canvas", { class: "layer" });
  const svg = s("svg", { class: "layer over", tabindex: 0, role: "img", "aria-label": "All points: memory over work or time. Arrow keys go from point to point, Enter chooses A, Shift+Enter chooses B." });
  const stage = h("div", { class: "stage", style: `height:${HEIGHT}px` }, canvas, svg);
  const answer = h("p", { class: "answer", "aria-live": "polite", id: "answer" });
  const curveNote = h("p", { class: "note" });
  const xs = choices("horizontal axis", [
    ["times", "× full store".replace("full store", data.baseName === "full store" ? "full store" : "least"), Number.isFinite(data.points[0]?.times) ? "" : "no work"],
    ["work", "work", data.points.some((p) => p.flops.total) ? "" : "no work"], ["time", "time", data.timed ? "" : "the scenario has no device"],
  ], state.x, (x) => state.set({ x }));
  const sized = data.points.some((p) => p.peak_bytes), no = sized ? "" : "no bytes are given";
  const ys = choices("vertical axis", [["peak", "peak", no], ["working", "working", no], ...(data.points.some((p) => p.ranks) ? [["held", "in flight"]] : [])], state.y, (y) => state.set({ y }));
  const picks = choices("a click chooses", [["a", "A"], ["b", "B"]], state.slot, (slot) => state.set({ slot }));
  const legend = h("div", { class: "legend" });
  const section = h("section", { id: "front" },
    h("h2", {}, "The front"),
    h("div", { class: "tools" }, tool("across", xs), tool("up", ys), tool("a click chooses", picks),
      h("span", { class: "hint" }, `Shift-click chooses B.${sized ? " Drag the budget line." : ""}`)),
    stage, legend, answer, curveNote);

  let x, y, cells, hovered = null, frame = null, order = [], shown = [];
  const overlay = s("g"), budgetGroup = s("g", { class: "budget", id: "budget", tabindex: 0, role: "slider", "aria-label": "memory budget", "aria-orientation": "vertical" });

  function layout() {
    const width = stage.clientWidth;
    if (!width) return;
    const ax = AXES_X[state.x], ay = AXES_Y[state.y];
    shown = data.points.filter((p) => Number.isFinite(ax.of(p)));
    const curves = curvesFor(data, state);
    const xsOf = shown.map(ax.of), ysOf = shown.map(ay.of);
    for (const curve of curves) if (curve.kind === "exact") for (const [m, f] of curve.points) { xsOf.push(f); ysOf.push(m); }
    x = scaleOf(xsOf, PAD.left, width - PAD.right);
    const top = Math.max(...ysOf), budget = data.results.scenario.budget_bytes;
    if (budget && ay === AXES_Y.peak && budget < 3 * top && budget > Math.min(...ysOf) / 3) ysOf.push(budget);
    y = scaleOf(ysOf, HEIGHT - PAD.bottom, PAD.top, { zero: true, margin: 0.1 });
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren();
    const clip = s("clipPath", { id: "plot" }, s("rect", { x: PAD.left, y: PAD.top, width: Math.max(width - PAD.left - PAD.right, 1), height: HEIGHT - PAD.top - PAD.bottom }));
    svg.append(clip);
    drawAxes(svg, x, y, { xUnit: ax.unit, yUnit: ay.unit, xName: ax.name.replace("full store", data.baseName) + (x.log ? " (log)" : ""), yName: ay.name + (y.log ? " (log)" : "") });
    const lines = s("g", { "clip-path": "url(#plot)" });
    for (const curve of curves) lines.append(s("path", { d: staircase(curve.points, x, y), class: `curve ${curve.kind}` }));
    svg.append(lines, overlay, budgetGroup);
    const context = sharp(canvas, width, HEIGHT);
    paint(context, width);
    drawOverlay();
    drawBudget();
    drawLegend(curves);
    curveNote.textContent = state.x === "time" && data.curves.length ? "Planned fronts and bounds are of work; they are not drawn over time." : "";
  }

  function paint(context) {
    const ax = AXES_X[state.x], ay = AXES_Y[state.y];
    const along = new Set(frontOf(competing(shown, ax.of), ax.of, ay.of));
    cells = new Map();
    order = [...shown].sort((p, q) => ax.of(p) - ax.of(q) || ay.of(p) - ay.of(q));
    const many = shown.length > 400, hues = {};
    for (const point of [...shown].sort((p, q) => along.has(p) - along.has(q))) {
      const px = x.at(ax.of(point)), py = y.at(ay.of(point));
      point.px = px; point.py = py;
      const key = `${Math.floor(px / CELL)},${Math.floor(py / CELL)}`;
      if (cells.has(key)) cells.get(key).push(point); else cells.set(key, [point]);
      const { hue, shape } = styles.get(point.series);
      hues[hue] ??= colour(hue);
      const radius = many ? 3 : 5;
      context.beginPath();
      SHAPES[shape](context, px, py, along.has(point) ? radius + 1 : radius);
      context.globalAlpha = point.fits ? (along.has(point) ? 1 : many ? 0.35 : 0.6) : 0.9;
      if (point.fits) { context.fillStyle = hues[hue]; context.fill(); }
      else { context.strokeStyle = hues[hue]; context.lineWidth = 1.5; context.stroke(); }
      if (along.has(point) && !many) { context.strokeStyle = colour("ink"); context.lineWidth = 1; context.stroke(); }
    }
    context.globalAlpha = 1;
  }

  function drawOverlay() {
    overlay.replaceChildren();
    const { best } = state.budget && AXES_Y[state.y].unit === "B" ? answerTo(state.budget, data.points, AXES_X[state.x].of) : { best: null };
    if (best && Number.isFinite(best.px)) overlay.append(s("circle", { cx: best.px, cy: best.py, r: 13, class: "lit", id: "lit" }));
    if (hovered) overlay.append(s("circle", { cx: hovered.px, cy: hovered.py, r: 10, class: "hovered" }));
    const same = state.a === state.b;
    for (const [slot, point] of [["a", state.a], ["b", state.b]]) {
      if (!point || !Number.isFinite(AXES_X[state.x].of(point))) continue;
      overlay.append(s("circle", { cx: point.px, cy: point.py, r: slot === "b" && same ? 12 : 9.5, class: `ring ${slot}` }));
      const at = point.px + (slot === "a" ? -22 : 22);  // A on the left, B on the right: they never meet
      overlay.append(s("rect", { x: at - 9, y: point.py - 9, width: 18, height: 18, rx: 4, class: `flag ${slot}` }),
        s("text", { x: at, y: point.py + 4, "text-anchor": "middle", class: "flagtext" }, slot.toUpperCase()));
    }
  }

  const offset = () => (state.y === "working" ? data.resident : 0);

  function drawBudget() {
    budgetGroup.replaceChildren();
    answer.hidden = AXES_Y[state.y].unit !== "B";
    budgetGroup.toggleAttribute("tabindex", !answer.hidden);
    if (!x || answer.hidden) return;
    budgetGroup.setAttribute("tabindex", "0");
    const budget = state.budget, level = Math.min(Math.max(budget - offset(), y.low), y.high), at = y.at(level);
    const right = x.to, text = `budget ${bytes(budget)}${offset() ? `, ${bytes(data.resident)} of it resident` : ""}`;
    const width = textWidth(text, 12, 600) + 20;
    budgetGroup.append(
      s("rect", { x: PAD.left, y: PAD.top, width: right - PAD.left, height: Math.max(at - PAD.top, 0), class: "above" }),
      s("line", { x1: PAD.left, x2: right, y1: at, y2: at, class: "line" }),
      s("rect", { x: PAD.left, y: at - 9, width: right - PAD.left, height: 18, class: "grip" }),
      s("rect", { x: right - width, y: at - 10, width, height: 20, rx: 10, class: "handle" }),
      s("text", { x: right - width / 2, y: at + 4, "text-anchor": "middle", class: "handletext" }, text));
    budgetGroup.setAttribute("aria-valuenow", String(Math.round(budget)));
    budgetGroup.setAttribute("aria-valuetext", bytes(budget));
    budgetGroup.setAttribute("aria-valuemin", "0");
    budgetGroup.setAttribute("aria-valuemax", String(Math.round(y.high + offset())));
    answer.replaceChildren(...answerText());
  }

  function answerText() {
    const ax = AXES_X[state.x], { best, next, smallest, saved, price, copying } = answerTo(state.budget, data.points, ax.of);
    const words = [h("strong", {}, `Within ${bytes(state.budget)}: `)];
    if (!best) return [...words, smallest ? `nothing; the smallest peak is ${bytes(smallest.peak_bytes)}, of ${smallest.label}.` : "nothing."];
    words.push(h("button", { type: "button", class: "link", onclick: () => state.set({ a: best }) }, best.label), `, ${bytes(best.peak_bytes)}, ${ax.text(ax.of(best))}`, ax === AXES_X.times ? " work. " : ". ");
    if (next) {
      const unit = niceUnit(saved), per = (price / saved) * unit;
      const cost = ax === AXES_X.times ? `${per < 2 ? percent(per) : `${digits(per)} times the work`} of ${data.baseName}${per < 2 ? " in work" : ""}` : ax.text(per);
      words.push(`From here on, ${bytes(unit)} less cost ${cost} (the next plan: ${bytes(next.peak_bytes)}, ${ax.text(ax.of(next))}).`);
    } else words.push("No plan that was tried takes less memory.");
    if (copying) words.push(" By copying: ", h("button", { type: "button", class: "link", onclick: () => state.set({ a: copying }) }, copying.label), `, ${bytes(copying.peak_bytes)}, ${ax.text(ax.of(copying))}${copying.seconds === null ? "" : ` in ${seconds(copying.seconds)}`}${best.seconds !== null && copying.seconds !== null ? `, where ${best.label} takes ${seconds(best.seconds)}` : ""}.`);
    const planned = state.x === "time" ? null : plannedWithin(data, state.budget);
    if (planned && planned[1] < best.flops.total) words.push(` The planned front has ${times(planned[1] / data.base.flops.total)} work in ${bytes(planned[0])}.`);
    return words;
  }

  function drawLegend(curves) {
    const used = [...styles].filter(([series]) => shown.some((p) => p.series === series));
    legend.replaceChildren(...used.map(([series, { hue, shape }]) => {
      const icon = h("canvas"), context = sharp(icon, 16, 16);
      context.beginPath(); SHAPES[shape](context, 8, 8, 4.6); context.fillStyle = colour(hue); context.fill();
      return h("span", {}, icon, series);
    }), ...curves.map((c) => h("span", {}, s("svg", { width: 26, height: 12 }, s("line", { x1: 1, x2: 25, y1: 6, y2: 6, class: `curve ${c.kind}` })), c.title)),
    ...(shown.some((p) => !p.fits) ? [h("span", {}, s("svg", { width: 14, height: 14 }, s("circle", { cx: 7, cy: 7, r: 5, class: "hollow" })), "does not fit")] : []));
  }

  // The points under the pointer: the nearest, and those that lie where it lies.
  function pointsAt(px, py) {
    const near = [], cx = Math.floor(px / CELL), cy = Math.floor(py / CELL);
    let least = 16 ** 2;
    for (let i = cx - 1; i <= cx + 1; i += 1) for (let j = cy - 1; j <= cy + 1; j += 1) {
      for (const point of cells?.get(`${i},${j}`) ?? []) {
        const distance = (point.px - px) ** 2 + (point.py - py) ** 2;
        if (distance < least) least = distance;
        near.push([point, distance]);
      }
    }
    const nearest = near.filter(([, d]) => d === least).map(([p]) => p)[0];
    return nearest ? near.map(([p]) => p).filter((p) => Math.hypot(p.px - nearest.px, p.py - nearest.py) < 2).sort((p, q) => p.index - q.index) : [];
  }

  function hover(points, event) {
    const point = points[0] ?? null;
    if (point !== hovered) { hovered = point; drawOverlay(); }
    if (!point) { tip.hide(); return; }
    const others = points.slice(1);
    tip.show(event, [...pointTip(point, data), ...(others.length ? [h("div", { class: "hint" }, `in the same place: ${others.slice(0, 3).map((p) => p.label).join(", ")}${others.length > 3 ? ` and ${others.length - 3} more` : ""}; a second click chooses the next`)] : [])]);
  }

  function choose(points, slot) {
    if (points.length) state.set({ [slot]: points[(points.indexOf(state[slot]) + 1) % points.length] });
  }

  const place = (event) => { const box = stage.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  let dragging = false;
  svg.addEventListener("pointermove", (event) => {
    if (dragging) {
      const [, py] = place(event);
      if (frame === null) frame = requestAnimationFrame(() => {
        frame = null;
        state.set({ budget: Math.max(Math.round(y.of(Math.min(Math.max(py, y.to), y.from)) + offset()), 0) });
      });
      return;
    }
    hover(pointsAt(...place(event)), event);
  });
  svg.addEventListener("pointerleave", () => { if (!dragging) hover([]); });
  svg.addEventListener("click", (event) => {
    choose(pointsAt(...place(event)), event.shiftKey ? "b" : state.slot);
  });
  svg.addEventListener("keydown", (event) => {
    if (event.target !== svg) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step && order.length) {
      event.preventDefault();
      const at = order.indexOf(hovered ?? state.a);
      const next = order[Math.min(Math.max(at + step, 0), order.length - 1)];
      const box = stage.getBoundingClientRect();
      hover([next], { clientX: box.left + next.px, clientY: box.top + next.py });
    } else if (event.key === "Enter" && hovered) state.set({ [event.shiftKey ? "b" : state.slot]: hovered });
    else if (event.key === "Escape") hover([]);
  });
  svg.addEventListener("blur", () => hover([]));
  budgetGroup.addEventListener("pointerdown", (event) => {
    if (pointsAt(...place(event)).length && !event.target.classList.contains("handle") && !event.target.classList.contains("handletext")) return;
    if (event.target.classList.contains("above")) return;
    dragging = true;
    tip.hide();
    budgetGroup.classList.add("dragging");
    svg.setPointerCapture(event.pointerId);
    event.preventDefault();
    budgetGroup.focus({ preventScroll: true });
  });
  const release = () => { dragging = false; budgetGroup.classList.remove("dragging"); };
  svg.addEventListener("pointerup", release);
  svg.addEventListener("pointercancel", release);
  budgetGroup.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const at = y.at(Math.max(state.budget - offset(), y.low)) - step * 3;
    state.set({ budget: Math.round(y.of(Math.min(Math.max(at, y.to), y.from)) + offset()) });
  });

  state.on(["x", "y", "theme"], () => { xs.mark(state.x); ys.mark(state.y); layout(); });
  state.on(["slot"], () => picks.mark(state.slot));
  state.on(["a", "b"], drawOverlay);
  state.on(["budget"], () => { drawBudget(); drawOverlay(); });
  return { section, layout };
}

const tool = (label, { element }) => h("label", { class: "tool" }, h("span", {}, label), element);

function curvesFor(data, state) {
  if (state.x === "time" || !data.base) return [];
  const shift = state.y === "working" ? data.resident : 0, unit = state.x === "times" ? data.base.flops.total || 1 : 1;
  return data.curves.map((curve) => ({
    kind: curve.kind,
    title: curve.bound_class ? `${curve.label} (${curve.bound_class})` : curve.label,
    points: curve.breakpoints.map(([m, f]) => [m - shift, f / unit]).sort((p, q) => p[0] - q[0]),
  }));
}

// Of a front the least work at each memory: up to the next breakpoint's memory the work stays.
function staircase(points, x, y) {
  if (!points.length) return "";
  const parts = points.map(([m, f], k) => {
    const at = `${x.at(f).toFixed(1)} ${y.at(m).toFixed(1)}`;
    return k === 0 ? `M${(x.to).toFixed(1)} ${y.at(m).toFixed(1)}L${at}` : `V${y.at(m).toFixed(1)}H${x.at(f).toFixed(1)}`;
  });
  return `${parts.join("")}V${y.to}`;
}

function plannedWithin(data, budget) {
  let best = null;
  for (const curve of data.curves) {
    if (curve.kind !== "exact") continue;
    for (const [m, f] of curve.breakpoints) if (m <= budget && (!best || f < best[1])) best = [m, f];
  }
  return best;
}

function niceUnit(size) {
  const power = 10 ** Math.floor(Math.log10(Math.max(size, 1)));
  return Math.max(1, [5, 2, 1].find((m) => m * power <= size) * power || 1);
}

function pointTip(point, data) {
  const rows = [point.label, ["peak", bytes(point.peak_bytes)], ["working", bytes(point.working_bytes)],
    ["work", `${flops(point.flops.total)} (${times(point.times)})`]];
  if (point.ranks) rows.splice(1, point.peak_bytes ? 0 : 3, ["bubble", percent(point.bubble)], ["in flight", whole(point.held)]);
  if (point.flops.recompute) rows.push(["evaluated again", flops(point.flops.recompute)]);
  if (point.seconds !== null) rows.push(["time", seconds(point.seconds)]);
  if (point.stall_seconds) rows.push(["of it stalled", seconds(point.stall_seconds)]);
  for (const [link, size] of Object.entries(point.copied_bytes)) if (size) rows.push([link.replaceAll("_", " "), bytes(size)]);
  rows.push(h("div", { class: point.fits ? "fits" : "fits not" }, point.fits ? (data.results.scenario.budget_bytes || data.results.scenario.device ? "fits" : "no budget and no device to fit") : `does not fit: ${point.why_not ?? ""}`));
  return rows;
}
