// The values at the peak as areas.

function peakSection(data, state) {
  const body = h("div", { class: "two" });
  const section = h("section", { id: "peak" }, h("h2", {}, "In memory at the peak"), h("div", { class: "tools" }, h("span", { class: "hint" }, "Areas are bytes, in each box as shares of that plan's own peak.")), body);
  function layout() {
    body.replaceChildren(...chosen(state).map(([slot, p]) => {
      const head = h("h3", {}, badge(slot), p.label, h("span", { class: "muted" }, ` ${bytes(p.peak_bytes)}${state.resident === "shown" || !p.resident_bytes ? "" : `, without ${bytes(p.resident_bytes)} that are resident`}`));
      if (!p.plan) return h("div", {}, head, h("p", { class: "note" }, without(p)));
      const values = liveAt(p.plan, p.plan.peakSample).filter((v) => v.tier === "device");
      if (p.resident_bytes && state.resident === "shown") values.push({ kind: "resident", node: null, bytes: p.resident_bytes });
      return h("div", {}, head, treemap(foldSmall(values.sort((u, v) => v.bytes - u.bytes)), data));
    }));
  }
  function foldSmall(values) {
    const total = values.reduce((t, v) => t + v.bytes, 0), kept = [], rest = {};
    for (const value of values) if (value.bytes >= total / 2000 || kept.length < 4) kept.push(value); else rest[value.kind] = (rest[value.kind] ?? 0) + value.bytes;
    return [...kept, ...Object.entries(rest).map(([kind, size]) => ({ kind, node: null, rest: true, bytes: size }))].sort((u, v) => v.bytes - u.bytes);
  }
  state.on(["a", "b", "resident", "theme"], layout);
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
