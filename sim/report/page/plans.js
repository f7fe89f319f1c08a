// What the two chosen plans do: the model's bars, memory over time, schedule, streams, and the peak as areas.

const FATES = ["kept", "recomputed", "host", "disk", "freed"];
const FATE_WORDS = { kept: "kept for the derivatives", recomputed: "evaluated again", host: "on the host", disk: "on disk", freed: "freed before the derivatives" };
const FATE_HUES = { kept: "blue", recomputed: "orange", host: "purple", disk: "yellow", freed: "faintbar" };
const KIND_ORDER = ["resident", "gradient", "activation", "residual", "tangent", "cotangent", "jacobian", "workspace"];
const KIND_HUES = { resident: "resident", gradient: "green", activation: "blue", residual: "sky", tangent: "orange", cotangent: "vermillion", jacobian: "purple", workspace: "yellow" };
const STEP_HUES = { forward: "blue", recompute: "orange", jvp: "sky", vjp: "green", jacobian: "purple", multiply: "vermillion", copy: "muted" };
const STEP_WORDS = { forward: "evaluation", recompute: "evaluation again", jvp: "tangents (JVP)", vjp: "adjoints (VJP)", jacobian: "local Jacobian", multiply: "product", copy: "copy" };

const swatch = (hue, text) => h("span", {}, h("i", { class: "swatch", style: `background:var(--${hue})` }), text);
const chosen = (state) => [["a", state.a], ["b", state.b]].filter(([slot, p], k) => p && !(k && p === state.a));
const badge = (slot) => h("b", { class: `badge ${slot}` }, slot.toUpperCase());
const without = (point) => `results.json holds no plan of ${point.label}: it keeps up to 16, those of the front first, and none of millions of actions.`;

function modelSection(data, state) {
  const body = h("div"), legend = h("div", { class: "legend" });
  const blocks = data.model ? blocksOf(data.model) : [];
  const closed = new Set();
  const words = { ...FATE_WORDS, ...(data.results.scenario.graph.wrt ? {} : { kept: "evaluated once" }) };
  const outer = (block) => block.name.split(".").slice(0, -1).join("."), upper = blocks.filter(outer), flat = blocks.every((b) => !b.name) && (data.model?.names.length ?? 99) <= 40;
  const grouped = blocks.filter((b) => b.stop - b.start > 1);
  const all = (fold) => { closed.clear(); if (fold) grouped.forEach((b) => closed.add(b)); layout(); };
  const section = h("section", { id: "model" }, h("h2", {}, "The model"),
    h("div", { class: "tools" }, h("span", { class: "hint" }, `${data.model && data.model.first.length < data.model.nodes ? `A bar is ${whole(data.model.nodes / data.model.first.length)} nodes` : "A bar is a node"}; its height, the bytes of its activation and residual; its colour, what becomes of them.`),
      grouped.length > 1 && h("div", { class: "choices" },
        h("button", { type: "button", onclick: () => all(true) }, "fold blocks"),
        h("button", { type: "button", onclick: () => all(false) }, "unfold"))),
    legend, body);
  if (grouped.length && data.model.names.length > 120) grouped.forEach((b) => closed.add(b));

  function bars() {
    const list = [];
    for (const block of blocks) {
      if (closed.has(block)) list.push({ start: block.start, stop: block.stop, name: block.name, block });
      else for (let k = block.start; k < block.stop; k += 1) list.push({ start: k, stop: k + 1, name: data.model.names[k], block });
    }
    return list;
  }
  const sum = (column, bar) => { let total = 0; for (let k = bar.start; column && k < bar.stop; k += 1) total += column[k]; return total; };

  function layout() {
    body.replaceChildren();
    if (!data.model) { body.append(h("p", { class: "note" }, "results.json holds no model; run the scenario again.")); return; }
    const list = bars(), plans = chosen(state);
    const most = Math.max(1, ...plans.flatMap(([, p]) => (p.plan ? list.map((bar) => FATES.reduce((t, f) => t + sum(p.plan.held[f], bar), 0)) : [])));
    const used = new Set();
    for (const [slot, point] of plans) {
      body.append(h("h3", {}, badge(slot), point.label));
      if (!point.plan) { body.append(h("p", { class: "note" }, without(point))); continue; }
      FATES.forEach((f) => { if (point.plan.held[f]) used.add(f); });
      body.append(chart(point.plan, list, most));
    }
    legend.replaceChildren(...FATES.filter((f) => used.has(f)).map((f) => swatch(FATE_HUES[f], words[f])));
  }

  function chart(plan, list, most) {
    const width = body.clientWidth || 900, height = 178, foot = flat ? 74 : upper.length ? 44 : 28;
    const svg = s("svg", { viewBox: `0 0 ${width} ${height + foot}`, class: "chart", role: "img", "aria-label": "bytes of each node" });
    const x = scaleBetween(0, list.length, PAD.left, width - PAD.right), y = scaleBetween(0, most, height, 14);
    for (const tick of ticksOf(y, 4)) {
      const at = Math.round(y.at(tick)) + 0.5;
      svg.append(s("line", { x1: PAD.left, x2: width - PAD.right, y1: at, y2: at, class: "grid" }), s("text", { x: PAD.left - 8, y: at + 4, "text-anchor": "end" }, tickText(tick, most, "B")));
    }
    list.forEach((bar, k) => {
      let base = 0;
      const left = x.at(k), wide = Math.max(x.at(k + 1) - left - (list.length > 150 ? 0.3 : 1.2), 0.6);
      const group = s("g", {
        onpointermove: (event) => tip.show(event, barTip(plan, bar)), onpointerleave: () => tip.hide(),
        onclick: () => { if (bar.block.stop - bar.block.start > 1) { if (closed.has(bar.block)) closed.delete(bar.block); else closed.add(bar.block); tip.hide(); layout(); } },
      }, s("rect", { x: left, y: 10, width: Math.max(x.at(k + 1) - left, 1), height: height - 10, class: "hit" }));
      for (const fate of FATES) {
        const size = sum(plan.held[fate], bar);
        if (!size) continue;
        group.append(s("rect", { x: left, y: y.at(base + size), width: wide, height: Math.max(y.at(base) - y.at(base + size), 0.6), fill: `var(--${FATE_HUES[fate]})` }));
        base += size;
      }
      svg.append(group);
    });
    svg.append(s("line", { x1: PAD.left, x2: width - PAD.right, y1: height + 0.5, y2: height + 0.5, class: "base" }));
    blockNames(svg, list, x, height);
    return svg;
  }

  // Two rows: the last part of a block's name below its bars, what blocks share of their names below that.
  function blockNames(svg, list, x, height) {
    if (flat) {
      list.forEach((bar, k) => {
        const at = x.at(k + 0.5) + 4;
        svg.append(s("text", { x: at, y: height + 14, "text-anchor": "end", class: "small", transform: `rotate(-38 ${at} ${height + 14})` }, shortened(bar.name, 84, 11)));
      });
      return;
    }
    const row = (same, nameOf, y) => {
      let free = -Infinity;
      for (let k = 0, end; k < list.length; k = end) {
        end = k + 1;
        while (end < list.length && same(list[end]) === same(list[k])) end += 1;
        const left = x.at(k), right = x.at(end), name = nameOf(list[k], end - k);
        if (!name) continue;
        svg.append(s("line", { x1: left + 1, x2: Math.max(right - 1, left + 1.5), y1: y + 0.5, y2: y + 0.5, class: "brace" }));
        const text = shortened(name, 120, 11), middle = (left + right) / 2, half = textWidth(text, 11) / 2;
        if (middle - half < free) continue;
        svg.append(s("text", { x: middle, y: y + 14, "text-anchor": "middle", class: "small" }, text));
        free = middle + half + 6;
      }
    };
    row((bar) => bar.block, ({ block }) => block.name.split(".").at(-1) || `${data.model.names[block.start]}${block.stop - block.start > 1 ? " …" : ""}`, height + 6);
    if (upper.length) row((bar) => outer(bar.block) || bar.block, ({ block }) => outer(block), height + 25);
  }

  function barTip(plan, bar) {
    const nodes = data.model.first, last = bar.stop < nodes.length ? nodes[bar.stop] : data.model.nodes, many = last - nodes[bar.start];
    const rows = [many > 1 ? `${bar.name || data.model.names[bar.start]}: ${count(many, "node")}` : `${bar.name} (${data.model.ops[bar.start]})`];
    for (const fate of FATES) { const size = sum(plan.held[fate], bar); if (size) rows.push([words[fate], bytes(size)]); }
    const evaluations = sum(plan.evaluations, bar);
    rows.push(["evaluations", many > 1 ? `${whole(evaluations)} of ${whole(many)} nodes` : whole(evaluations)], ["one evaluation", flops(sum(data.model.forward_flops, bar))]);
    if (bar.block.stop - bar.block.start > 1) rows.push(h("div", { class: "hint" }, closed.has(bar.block) ? "click: unfold the block" : "click: fold the block"));
    return rows;
  }
  state.on(["a", "b", "theme"], layout);
  return { section, layout };
}

function memorySection(data, state) {
  const canChoose = data.points.some((p) => p.plan?.seconds);
  const clock = choices("time axis", [["work", "work"], ["seconds", "seconds", canChoose ? "" : "no times"], ["actions", "actions"]], state.clock, (value) => state.set({ clock: value }));
  const scale = choices("memory axes", [["shared", "shared"], ["own", "each its own"]], "shared", (value) => state.set({ scale: value }));
  const charts = h("div", { class: "charts", tabindex: 0, role: "img", "aria-label": "memory over time; left and right move the cursor" }), lists = h("div", { class: "lists" }), legend = h("div", { class: "legend" }), note = h("p", { class: "note" });
  const section = h("section", { id: "memory" }, h("h2", {}, "Memory over time"),
    h("div", { class: "tools" }, tool("time as", clock), tool("memory axes", scale), h("span", { class: "hint" }, "The cursor lists what is in memory.")), legend, charts, note, lists);
  let cursor = null, x = null, cursors = [];

  const edgesOf = (plan) => (state.clock === "actions" ? plan.at.map((_, k) => Math.ceil((k * plan.actions) / plan.at.length)).concat(plan.actions) : state.clock === "seconds" ? plan.seconds ?? null : plan.work);

  function layout() {
    charts.replaceChildren();
    cursors = [];
    const plans = chosen(state), width = charts.clientWidth;
    if (!width) return;
    const drawn = plans.filter(([, p]) => p.plan && edgesOf(p.plan));
    const far = Math.max(1e-300, ...drawn.map(([, p]) => edgesOf(p.plan).at(-1)));
    const high = Math.max(1, ...drawn.map(([, p]) => p.peak_bytes)), height = 190;
    const own = state.scale === "own" || (state.scale === "auto" && drawn.some(([, p]) => p.peak_bytes < high / 20));
    scale.mark(own ? "own" : "shared");
    x = scaleBetween(0, far, PAD.left, width - PAD.right);
    const kinds = new Set();
    plans.forEach(([slot, point], k) => {
      charts.append(h("h3", {}, badge(slot), point.label, h("span", { class: "muted" }, ` peak ${bytes(point.peak_bytes)} during ${point.peak_at.kind}(${point.peak_at.node})`)));
      if (!point.plan) { charts.append(h("p", { class: "note" }, without(point))); return; }
      const edges = edgesOf(point.plan);
      if (!edges) { charts.append(h("p", { class: "note" }, "Copies overlap with computations here; its seconds are in the streams below.")); return; }
      charts.append(panel(slot, point, edges, x, scaleBetween(0, (own ? point.peak_bytes : high) * 1.04, height, 10), width, height, k === plans.length - 1, kinds));
    });
    legend.replaceChildren(...KIND_ORDER.filter((kind) => kinds.has(kind)).map((kind) => swatch(KIND_HUES[kind], kind)));
    const loops = drawn.flatMap(([, p]) => p.plan.loops);
    note.textContent = [own && drawn.length > 1 ? "The two axes of memory differ." : "", loops.length ? `The turns of a loop are alike; one that is drawn stands for up to ${whole(Math.max(...loops.map((l) => l.times)))}.` : ""].join(" ").trim();
    if (cursor === null && drawn.length) cursor = edgesOf(drawn[0][1].plan)[drawn[0][1].plan.peakSample] + 1e-12;
    point(cursor);
  }

  function panel(slot, p, edges, x, y, width, height, last, kinds) {
    const svg = s("svg", { viewBox: `0 0 ${width} ${height + (last ? 40 : 8)}`, class: "chart" });
    const unit = { work: "FLOP", seconds: "s", actions: "" }[state.clock];
    if (last) drawAxes(svg, x, y, { xUnit: unit, yUnit: "B", xName: state.clock === "actions" ? "actions" : state.clock === "work" ? "work done" : "time" });
    else for (const tick of ticksOf(y, 5)) svg.append(s("line", { x1: PAD.left, x2: width - PAD.right, y1: y.at(tick), y2: y.at(tick), class: "grid" }), s("text", { x: PAD.left - 8, y: y.at(tick) + 4, "text-anchor": "end" }, tickText(tick, y.high, "B")));
    const base = new Array(p.plan.at.length).fill(0);
    const columns = { ...p.plan.bytes, resident: p.resident_bytes ? base.map(() => p.resident_bytes) : null };
    for (const kind of KIND_ORDER) {
      const column = columns[kind];
      if (!column) continue;
      kinds.add(kind);
      const upper = base.map((b, k) => b + column[k]);
      svg.append(s("path", { d: area(edges, base, upper, x, y), fill: `var(--${KIND_HUES[kind]})` }));
      upper.forEach((u, k) => { base[k] = u; });
    }
    const at = y.at(p.peak_bytes);
    svg.append(s("line", { x1: PAD.left, x2: width - PAD.right, y1: at, y2: at, class: `peakline ${slot}` }));
    const line = s("line", { y1: 6, y2: height, class: "cursor", x1: -9, x2: -9 });
    svg.append(line, s("rect", { x: PAD.left, y: 0, width: width - PAD.left - PAD.right, height, class: "hit" }));
    cursors.push(line);
    svg.addEventListener("pointermove", (event) => { const box = svg.getBoundingClientRect(); point(x.of((event.clientX - box.left) * (width / box.width))); });
    return svg;
  }

  function point(value) {
    if (value === null || !x) return;
    cursor = Math.min(Math.max(value, 0), x.high);
    for (const line of cursors) { line.setAttribute("x1", x.at(cursor)); line.setAttribute("x2", x.at(cursor)); }
    lists.replaceChildren(...chosen(state).filter(([, p]) => p.plan && edgesOf(p.plan)).map(([slot, p]) => {
      const edges = edgesOf(p.plan), sample = sampleAt(edges, cursor);
      if (sample === null) return h("div", { class: "live" }, h("h4", {}, badge(slot), "is done"));
      const values = liveAt(p.plan, sample), total = Object.values(p.plan.bytes).reduce((t, c) => t + c[sample], 0) + p.resident_bytes;
      const rows = values.slice(0, 8).map((v) => h("tr", {}, h("td", {}, h("i", { class: "swatch", style: `background:var(--${KIND_HUES[v.kind]})` }), valueText(v, data)), h("td", {}, bytes(v.bytes))));
      if (p.resident_bytes) rows.push(h("tr", {}, h("td", {}, h("i", { class: "swatch", style: "background:var(--resident)" }), "resident"), h("td", {}, bytes(p.resident_bytes))));
      const rest = values.slice(8).filter((v) => v.tier === "device");
      if (rest.length) rows.push(h("tr", {}, h("td", { class: "muted" }, `${count(rest.length, "more value")}`), h("td", { class: "muted" }, bytes(rest.reduce((t, v) => t + v.bytes, 0)))));
      return h("div", { class: "live", "data-slot": slot }, h("h4", {}, badge(slot), `${bytes(total)} during ${p.plan.at_kind[sample]}(${data.nodeName(p.plan.at_node[sample])})`), h("table", {}, h("tbody", {}, rows)));
    }));
    lists.style.minHeight = `${Math.max(parseFloat(lists.style.minHeight) || 0, lists.scrollHeight)}px`;
  }
  charts.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !x) return;
    event.preventDefault();
    point(cursor + (step * x.high) / 200);
  });
  state.on(["a", "b", "clock", "scale", "theme"], (keys) => { if (keys.has("clock")) { clock.mark(state.clock); cursor = null; } layout(); });
  return { section, layout };
}

function valueText(value, data) {
  if (value.node === null) return value.rest ? `${value.kind}s that are not listed` : value.kind;
  return `${value.kind}(${data.nodeName(value.node)})${value.tier === "device" ? "" : ` on ${value.tier}`}`;
}

function sampleAt(edges, value) {
  if (value > edges[edges.length - 1]) return null;
  let low = 0, high = edges.length - 2;
  while (low < high) { const middle = (low + high + 1) >> 1; if (edges[middle] <= value) low = middle; else high = middle - 1; }
  return low;
}

function area(edges, lower, upper, x, y) {
  const up = [], down = [];
  for (let k = 0; k < upper.length; k += 1) {
    const a = x.at(edges[k]).toFixed(1), b = x.at(edges[k + 1]).toFixed(1);
    up.push(`${a} ${y.at(upper[k]).toFixed(1)}L${b} ${y.at(upper[k]).toFixed(1)}`);
    down.push(`${b} ${y.at(lower[k]).toFixed(1)}L${a} ${y.at(lower[k]).toFixed(1)}`);
  }
  return `M${up.join("L")}L${down.reverse().join("L")}Z`;
}

// The plan of A or B that a section shows, with the switch between them.
function switched(state, layout) {
  let slot = "a";
  const element = h("div");
  const view = {
    element,
    point: () => (slot === "b" && state.b ? state.b : state.a),
    slot: () => slot,
    refresh() { element.replaceChildren(choices("plan", [["a", "A"], ["b", "B", state.b ? "" : "no B is chosen"]], slot, (value) => { slot = value; layout(true); }).element); },
    prefer(value) { slot = value; },
  };
  return view;
}

function scheduleSection(data, state) {
  const legend = h("div", { class: "legend" }), title = h("h3"), note = h("p", { class: "note" });
  const which = switched(state, () => update());
  const each = data.model && data.model.nodes === data.model.first.length;
  const labelled = Math.max(PAD.left, Math.min(190, 16 + Math.max(0, ...(each ? data.model.names : []).map((name) => textWidth(name, 11)))));
  const view = zoomable("The schedule: nodes over actions", {
    height: () => Math.max(150, Math.min(420, (data.model?.nodes ?? 1) * 12 + 62)),
    left: labelled,
    draw({ context, svg, x, width, height }) {
      const { plan } = which.point(), n = data.model?.nodes ?? 1;
      const y = scaleBetween(-0.5, n - 0.5, 12, height - 46), tall = Math.max(y.at(1) - y.at(0), 1);
      context.save();
      context.beginPath(); context.rect(labelled, 8, width - labelled - PAD.right, height - 50); context.clip();
      const sampleX = (k) => x.at((k * plan.actions) / plan.at.length);
      context.fillStyle = colour("held");
      const { lives } = plan;
      for (let k = 0; k < lives.node.length; k += 1) {
        if (lives.node[k] < 0 || lives.tier[k] !== "device" || (lives.kind[k] !== "activation" && lives.kind[k] !== "residual")) continue;
        const a = sampleX(lives.start[k]), b = sampleX(lives.stop[k]);
        context.fillRect(a, y.at(lives.node[k] - 0.5) + tall * 0.1, Math.max(b - a, 0.7), Math.max(tall * 0.8, 0.8));
      }
      const { steps } = plan, hues = {};
      for (let k = 0; k < steps.kind.length; k += 1) {
        context.fillStyle = context.strokeStyle = hues[steps.kind[k]] ??= colour(STEP_HUES[steps.kind[k]] ?? "ink");
        const a = x.at(steps.start[k]), b = x.at(steps.stop[k]), p = steps.first[k], q = steps.last[k];
        if (b < labelled || a > width) continue;
        if (!plan.exact) { context.globalAlpha = 0.75; context.fillRect(a, y.at(Math.min(p, q) - 0.5), Math.max(b - a, 1), Math.max(y.at(Math.max(p, q) + 0.5) - y.at(Math.min(p, q) - 0.5), 1)); context.globalAlpha = 1; continue; }
        const many = Math.abs(q - p) + 1, direction = Math.sign(q - p);
        if (tall >= 3 && (b - a) / many >= 1.2) {
          for (let i = 0; i < many; i += 1) context.fillRect(a + (i * (b - a)) / many + 0.3, y.at(p + i * direction - 0.5) + tall * 0.1, Math.max((b - a) / many - 0.6, 0.9), Math.max(tall * 0.8, 1));
        } else {
          context.lineWidth = Math.max(2, Math.min(tall * 0.8, 5));
          context.beginPath(); context.moveTo(a, y.at(p)); context.lineTo(Math.max(b, a + 0.8), y.at(q)); context.stroke();
        }
      }
      context.restore();
      const ticks = [...new Set([0, ...ticksOf(scaleBetween(0, n, 0, 1), Math.max(2, Math.floor(height / 60))).map(Math.round), n - 1])].filter((t) => t >= 0 && t < n);
      let free = -99;
      for (const tick of ticks) {
        if (y.at(tick) < free || (tick !== n - 1 && y.at(n - 1) - y.at(tick) < 14)) continue;
        free = y.at(tick) + 14;
        svg.append(s("text", { x: labelled - 8, y: y.at(tick) + 4, "text-anchor": "end", class: "small" }, each ? shortName(data.nodeName(tick), labelled - 12, 11) : whole(tick + 1)));
      }
      drawAxes(svg, x, scaleBetween(0, 0, height - 42, height - 42), { xUnit: "", xName: "actions", yUnit: "" });
      svg.querySelectorAll(".axes .grid").forEach((line) => line.remove());
      svg.querySelectorAll('.axes text[text-anchor="end"]:not(.name)').forEach((text) => { if (Number(text.getAttribute("x")) < labelled) text.remove(); });
    },
    tipAt(action, py) {
      const { plan } = which.point(), n = data.model?.nodes ?? 1, height = view.stage.clientHeight;
      if (action < 0 || action >= plan.actions) return null;
      const { steps } = plan, at = Math.floor(action);
      const k = plan.exact ? steps.start.findIndex((a, i) => a <= at && at < steps.stop[i]) : -1;
      const node = Math.round(((py - 12) / (height - 58)) * n - 0.5);
      const rows = [];
      if (k >= 0) {
        const direction = Math.sign(steps.last[k] - steps.first[k]);
        rows.push(`${STEP_WORDS[steps.kind[k]] ?? steps.kind[k]} of ${data.nodeName(steps.first[k] + direction * (at - steps.start[k]))}`, ["action", whole(at)]);
      } else rows.push(`action ${whole(at)} of ${whole(plan.actions)}`);
      const sample = Math.min(Math.floor((action * plan.at.length) / plan.actions), plan.at.length - 1);
      const total = Object.values(plan.bytes).reduce((t, c) => t + c[sample], 0) + plan.resident;
      rows.push(["in memory about then", bytes(total)]);
      if (node >= 0 && node < n) rows.push(["the row pointed at", data.nodeName(node)]);
      return rows;
    },
  });
  const section = h("section", { id: "schedule" }, h("h2", {}, "The schedule"),
    h("div", { class: "tools" }, tool("plan", which), tool("zoom", { element: view.tools }), h("span", { class: "hint" }, "Nodes run down, actions to the right. Drag to zoom, double-click for all.")),
    title, legend, view.stage, note);
  function update() {
    const point = which.point();
    which.refresh();
    if (!point) return;
    title.replaceChildren(badge(which.slot()), point.label, h("span", { class: "muted" }, point.plan ? ` ${count(point.plan.actions, "action")}` : ""));
    view.stage.hidden = !point.plan;
    legend.replaceChildren();
    if (!point.plan) { note.textContent = without(point); return; }
    const used = new Set(point.plan.steps.kind);
    legend.append(...Object.keys(STEP_WORDS).filter((k) => used.has(k)).map((k) => swatch(STEP_HUES[k], STEP_WORDS[k])), swatch("held", "in memory"));
    note.textContent = [point.plan.exact ? "" : "Too many actions to draw each: a box is the nodes that a kind of action touches in a two-hundredth of them.", point.plan.loops.length ? "Loops are laid out at most three times." : ""].join(" ");
    view.reset(point.plan.actions);
    view.layout();
  }
  state.on(["a", "b", "theme"], update);
  return { section, layout: update };
}

function streamsSection(data, state) {
  if (!data.points.some((p) => p.plan?.spans)) return null;
  const title = h("h3"), note = h("p", { class: "note" }), legend = h("div", { class: "legend" });
  const which = switched(state, () => update());
  const ROW = 40;
  const rowsOf = (plan) => [...new Set(plan.spans.stream)];
  const view = zoomable("Streams over time", {
    height: () => rowsOf(shown().plan).length * ROW + 62,
    draw({ context, svg, x, width, height }) {
      const { spans } = shown().plan, rows = rowsOf(shown().plan), hues = {};
      context.save();
      context.beginPath(); context.rect(PAD.left, 0, width - PAD.left - PAD.right, height); context.clip();
      for (let k = 0; k < spans.stream.length; k += 1) {
        const top = rows.indexOf(spans.stream[k]) * ROW + 10, a = x.at(spans.start[k]), b = x.at(spans.stop[k]);
        if (spans.wait[k] && b > PAD.left) {
          const w = x.at(spans.start[k] - spans.wait[k]);
          context.fillStyle = colour("stall"); context.fillRect(w, top + 8, Math.max(a - w, 0.7), ROW - 26);
        }
        context.fillStyle = hues[spans.kind[k]] ??= colour(STEP_HUES[spans.kind[k]] ?? "ink");
        context.fillRect(a, top, Math.max(b - a - (b - a > 3 ? 0.6 : 0), 0.7), ROW - 10);
      }
      context.restore();
      rows.forEach((name, k) => {
        const words = { compute: ["compute"], device_to_host: ["device", "→ host"], host_to_device: ["host", "→ device"], host_to_disk: ["host", "→ disk"], disk_to_host: ["disk", "→ host"] }[name] ?? [name];
        words.forEach((word, i) => svg.append(s("text", { x: PAD.left - 10, y: k * ROW + 29 - (words.length - 1) * 7 + i * 14, "text-anchor": "end", class: "small" }, word)));
      });
      drawAxes(svg, x, scaleBetween(0, 0, rows.length * ROW + 14, rows.length * ROW + 14), { xUnit: "s", xName: "time", yUnit: "" });
      svg.querySelectorAll(".axes .grid").forEach((line) => line.remove());
      svg.querySelectorAll('.axes text[text-anchor="end"]:not(.name)').forEach((text) => { if (Number(text.getAttribute("x")) < PAD.left) text.remove(); });
    },
    tipAt(time, py) {
      const { spans } = shown().plan, row = rowsOf(shown().plan)[Math.floor((py - 5) / ROW)];
      for (let k = 0; k < spans.stream.length; k += 1) {
        if (spans.stream[k] !== row || time > spans.stop[k] || time < spans.start[k] - spans.wait[k]) continue;
        const rows = [time < spans.start[k] ? `waiting to ${spans.kind[k]} ${data.nodeName(spans.node[k])}` : `${spans.kind[k]}(${data.nodeName(spans.node[k])})`, ["from", seconds(spans.start[k])], ["takes", seconds(spans.stop[k] - spans.start[k])]];
        if (spans.wait[k]) rows.push(["waited before", seconds(spans.wait[k])]);
        return rows;
      }
      return null;
    },
  });
  const shown = () => (which.point()?.plan?.spans ? which.point() : data.points.find((p) => p.plan?.spans));
  const section = h("section", { id: "streams" }, h("h2", {}, "Streams"),
    h("div", { class: "tools" }, tool("plan", which), tool("zoom", { element: view.tools }), h("span", { class: "hint" }, "What each stream does when, and where it waits.")), title, legend, view.stage, note);
  function update() {
    which.refresh();
    const point = shown(), asked = which.point();
    const busy = {};
    point.plan.spans.stream.forEach((name, k) => { busy[name] = (busy[name] ?? 0) + point.plan.spans.stop[k] - point.plan.spans.start[k]; });
    title.replaceChildren(...(point === asked ? [badge(which.slot())] : []), point.label, h("span", { class: "muted" }, ` ${seconds(point.seconds)}, compute stalled ${seconds(point.stall_seconds ?? 0)}`));
    note.textContent = point === asked || !asked ? "" : `${asked.label} copies nothing: one stream, which never waits. Shown is a plan that copies.`;
    const used = new Set(point.plan.spans.kind);
    legend.replaceChildren(...Object.keys(STEP_WORDS).filter((k) => used.has(k)).map((k) => swatch(STEP_HUES[k], STEP_WORDS[k])), swatch("stall", "waits"));
    view.reset(Math.max(...point.plan.spans.stop));
    view.layout();
  }
  state.on(["a", "b", "theme"], update);
  return { section, layout: update };
}

function peakSection(data, state) {
  const body = h("div", { class: "two" });
  const section = h("section", { id: "peak" }, h("h2", {}, "In memory at the peak"), h("div", { class: "tools" }, h("span", { class: "hint" }, "Areas are bytes, in each box as shares of that plan's own peak.")), body);
  function layout() {
    body.replaceChildren(...chosen(state).map(([slot, p]) => {
      const head = h("h3", {}, badge(slot), p.label, h("span", { class: "muted" }, ` ${bytes(p.peak_bytes)}`));
      if (!p.plan) return h("div", {}, head, h("p", { class: "note" }, without(p)));
      const values = liveAt(p.plan, p.plan.peakSample).filter((v) => v.tier === "device");
      if (p.resident_bytes) values.push({ kind: "resident", node: null, bytes: p.resident_bytes });
      return h("div", {}, head, treemap(foldSmall(values.sort((u, v) => v.bytes - u.bytes)), data));
    }));
  }
  function foldSmall(values) {
    const total = values.reduce((t, v) => t + v.bytes, 0), kept = [], rest = {};
    for (const value of values) if (value.bytes >= total / 2000 || kept.length < 4) kept.push(value); else rest[value.kind] = (rest[value.kind] ?? 0) + value.bytes;
    return [...kept, ...Object.entries(rest).map(([kind, size]) => ({ kind, node: null, rest: true, bytes: size }))].sort((u, v) => v.bytes - u.bytes);
  }
  state.on(["a", "b", "theme"], layout);
  return { section, layout };
}

function treemap(values, data) {
  const width = 520, height = 250;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "treemap", role: "img", "aria-label": "values at the peak" });
  for (const { value, x, y, w, t } of squarified(values.filter((v) => v.bytes > 0), width, height)) {
    const text = valueText(value, data), group = s("g", { onpointermove: (event) => tip.show(event, [text, ["bytes", bytes(value.bytes)]]), onpointerleave: () => tip.hide() },
      s("rect", { x: x + 0.5, y: y + 0.5, width: Math.max(w - 1, 0.3), height: Math.max(t - 1, 0.3), fill: `var(--${KIND_HUES[value.kind] ?? "muted"})`, rx: 2 }));
    const tone = `on ${KIND_HUES[value.kind]}`;
    const name = value.node === null ? value.rest ? `${value.kind}s` : value.kind : data.nodeName(value.node);
    if (w > 46 && t > 17) {
      const short = shortName(name, w - 10, 11);
      if (short.length > 2) group.append(s("text", { x: x + 6, y: y + 14.5, class: `small ${tone}` }, short));
      if (t > 32 && textWidth(bytes(value.bytes), 11) < w - 10) group.append(s("text", { x: x + 6, y: y + 28, class: `small ${tone} soft` }, bytes(value.bytes)));
    }
    svg.append(group);
  }
  return svg;
}

// Bruls, Huizing, van Wijk (2000), "Squarified treemaps": rows whose worst aspect ratio would not improve.
function squarified(values, width, height) {
  const total = values.reduce((t, v) => t + v.bytes, 0), boxes = [];
  let x = 0, y = 0, w = width, t = height, k = 0;
  const areaOf = (v) => (v.bytes / total) * width * height;
  while (k < values.length) {
    const side = Math.min(w, t);
    let row = [], sum = 0, worst = Infinity;
    while (k + row.length < values.length) {
      const next = areaOf(values[k + row.length]), grown = sum + next;
      const sizes = [...row, next];
      const ratio = Math.max((side * side * Math.max(...sizes)) / grown ** 2, grown ** 2 / (side * side * Math.min(...sizes)));
      if (ratio > worst) break;
      row = sizes; sum = grown; worst = ratio;
    }
    const thick = sum / (side || 1);
    let along = 0;
    row.forEach((size, i) => {
      const length = size / (thick || 1);
      boxes.push(w >= t ? { value: values[k + i], x, y: y + along, w: thick, t: length } : { value: values[k + i], x: x + along, y, w: length, t: thick });
      along += length;
    });
    if (w >= t) { x += thick; w -= thick; } else { y += thick; t -= thick; }
    k += row.length;
  }
  return boxes;
}
