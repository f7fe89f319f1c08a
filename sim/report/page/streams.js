// The streams of a plan that copies: what each does when, and where it waits.

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
      drawAxes(svg, x, scaleBetween(0, 0, rows.length * ROW + 14, rows.length * ROW + 14), { xUnit: "s", xName: "time", yUnit: "", bare: true });
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
