// Memory over time of A and B, stacked by kind, with a cursor that lists what is in memory.

function memorySection(data, state) {
  const canChoose = data.points.some((p) => p.plan?.seconds);
  const clock = choices("time axis", [["work", "work"], ["seconds", "seconds", canChoose ? "" : "no times"], ["actions", "actions"]], state.clock, (value) => state.set({ clock: value }));
  const scale = choices("memory axes", [["shared", "shared"], ["own", "each its own"]], "shared", (value) => state.set({ scale: value }));
  const resident = choices("resident bytes", [["shown", "shown"], ["hidden", "hidden"]], state.resident, (value) => state.set({ resident: value }));
  const heightOf = (p) => (state.resident === "shown" ? p.peak_bytes : p.working_bytes);
  const charts = h("div", { class: "charts", tabindex: 0, role: "img", "aria-label": "memory over time; left and right move the cursor" }), lists = h("div", { class: "lists" }), legend = h("div", { class: "legend" }), note = h("p", { class: "note" });
  const section = h("section", { id: "memory" }, h("h2", {}, "Memory over time"),
    h("div", { class: "tools" }, tool("time as", clock), tool("memory axes", scale), data.resident > 0 && tool("resident bytes", resident), h("span", { class: "hint" }, "The cursor lists what is in memory.")), legend, charts, note, lists);
  let cursor = null, x = null, cursors = [];

  const edgesOf = (plan) => (state.clock === "actions" ? plan.at_node.map((_, k) => Math.ceil((k * plan.actions) / plan.at_node.length)).concat(plan.actions) : state.clock === "seconds" ? plan.seconds ?? null : plan.work);

  function layout() {
    charts.replaceChildren();
    cursors = [];
    const plans = chosen(state), width = charts.clientWidth;
    if (!width) return;
    const drawn = plans.filter(([, p]) => p.plan && edgesOf(p.plan));
    const far = Math.max(1e-300, ...drawn.map(([, p]) => edgesOf(p.plan).at(-1)));
    const high = Math.max(1, ...drawn.map(([, p]) => heightOf(p))), height = 190;
    const own = state.scale === "own" || (state.scale === "auto" && drawn.some(([, p]) => heightOf(p) < high / 20));
    scale.mark(own ? "own" : "shared");
    x = scaleBetween(0, far, PAD.left, width - PAD.right);
    const kinds = new Set();
    plans.forEach(([slot, point], k) => {
      charts.append(h("h3", {}, badge(slot), point.label, h("span", { class: "muted" }, ` peak ${bytes(point.peak_bytes)} during ${point.peak_at.kind}(${point.peak_at.node})`)));
      if (!point.plan) { charts.append(h("p", { class: "note" }, without(point))); return; }
      const edges = edgesOf(point.plan);
      if (!edges) { charts.append(h("p", { class: "note" }, "Copies overlap with computations here; its seconds are in the streams below.")); return; }
      charts.append(panel(slot, point, edges, x, scaleBetween(0, (own ? Math.max(heightOf(point), 1) : high) * 1.04, height, 10), width, height, k === plans.length - 1, kinds));
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
    const base = new Array(p.plan.at_node.length).fill(0);
    const columns = { ...p.plan.bytes, resident: p.resident_bytes && state.resident === "shown" ? base.map(() => p.resident_bytes) : null };
    for (const kind of KIND_ORDER) {
      const column = columns[kind];
      if (!column) continue;
      kinds.add(kind);
      const upper = base.map((b, k) => b + column[k]);
      svg.append(s("path", { d: area(edges, base, upper, x, y), fill: `var(--${KIND_HUES[kind]})` }));
      upper.forEach((u, k) => { base[k] = u; });
    }
    const at = y.at(heightOf(p));
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
  state.on(["a", "b", "clock", "scale", "resident", "theme"], (keys) => { if (keys.has("clock")) { clock.mark(state.clock); cursor = null; } layout(); });
  return { section, layout };
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
