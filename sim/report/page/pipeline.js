// Pipelines: what each rank of A and of B does, on one time axis.

const PART_HUES = { forward: "sky", vjp: "blue", input_vjp: "green", weight_vjp: "orange" };
const PART_WORDS = { forward: "forward", vjp: "VJP, both parts", input_vjp: "VJP of the input", weight_vjp: "VJP of the weights" };

function pipelineSection(data, state) {
  const runs = new Map((data.results.pipelines ?? []).map((entry) => [entry.label, entry]));
  if (!runs.size) return null;
  const ROW = 20, HEAD = 26, note = h("p", { class: "note" });
  const shown = () => chosen(state).map(([slot, p]) => [slot, p, runs.get(p.label)]).filter(([, , entry]) => entry);
  const tops = () => { let y = 0; return shown().map(([slot, p, entry]) => { const top = y + HEAD; y = top + entry.lanes.length * ROW + 8; return { slot, p, entry, top }; }); };
  const view = zoomable("Passes of each rank over time", {
    height: () => shown().reduce((t, [, , entry]) => t + HEAD + entry.lanes.length * ROW + 8, 0) + 48,
    draw({ context, svg, x, width, height }) {
      const hues = {};
      for (const { slot, p, entry, top } of tops()) {
        svg.append(s("text", { x: PAD.left, y: top - 8, class: `lane ${slot}` }, `${slot.toUpperCase()}  ${p.label}`), s("text", { x: PAD.left + textWidth(`${slot.toUpperCase()}  ${p.label}`, 12, 700) + 14, y: top - 8 }, `${seconds(entry.seconds)}, bubble ${percent(entry.bubble)}`));
        entry.lanes.forEach((lane, rank) => {
          const y = top + rank * ROW;
          if (rank % Math.ceil(entry.lanes.length / 16) === 0) svg.append(s("text", { x: PAD.left - 8, y: y + 14, "text-anchor": "end", class: "small" }, `rank ${rank}`));
          context.save();
          context.beginPath(); context.rect(PAD.left, y, width - PAD.left - PAD.right, ROW); context.clip();
          lane.part.forEach((part, k) => {
            const a = x.at(lane.start[k]), b = x.at(lane.end[k]);
            if (b < PAD.left || a > width) return;
            context.fillStyle = hues[part] ??= colour(PART_HUES[part] ?? "muted");
            context.globalAlpha = lane.stage[k] === rank ? 1 : 0.55;  // a later stage of the same rank is paler
            context.fillRect(a, y + 2, Math.max(b - a - (b - a > 4 ? 0.8 : 0), 0.6), ROW - 4);
            if (b - a > 22) {
              context.globalAlpha = 1;
              context.fillStyle = colour("card");
              context.font = `600 10px ${FONT}`;
              context.textAlign = "center";
              context.fillText(String(lane.micro_batch[k]), (a + b) / 2, y + ROW - 6.5);
            }
          });
          context.restore();
        });
      }
      drawAxes(svg, x, scaleBetween(0, 0, height - 42, height - 42), { xUnit: "s", xName: "time", yUnit: "", bare: true });
    },
    tipAt(time, py) {
      for (const { p, entry, top } of tops()) {
        const rank = Math.floor((py - top) / ROW), lane = entry.lanes[rank];
        if (!lane) continue;
        const k = lane.start.findIndex((a, i) => a <= time && time < lane.end[i]);
        return k < 0 ? [`rank ${rank} of ${p.label} waits`] : [`${PART_WORDS[lane.part[k]] ?? lane.part[k]} of micro-batch ${lane.micro_batch[k]}`, ["rank", String(rank)], ["stage", String(lane.stage[k])], ["from", seconds(lane.start[k])], ["takes", seconds(lane.end[k] - lane.start[k])]];
      }
      return null;
    },
  });
  const legend = h("div", { class: "legend" });
  const section = h("section", { id: "pipeline" }, h("h2", {}, "Ranks over time"),
    h("div", { class: "tools" }, tool("zoom", { element: view.tools }), h("span", { class: "hint" }, "A and B on one axis; numbers are micro-batches, later stages of a rank are paler. Drag to zoom.")), legend, view.stage, note);
  function layout() {
    const entries = shown(), used = new Set(entries.flatMap(([, , e]) => e.lanes.flatMap((lane) => lane.part)));
    legend.replaceChildren(...Object.keys(PART_WORDS).filter((part) => used.has(part)).map((part) => swatch(PART_HUES[part], PART_WORDS[part])));
    const missing = chosen(state).filter(([, p]) => !runs.has(p.label)).map(([, p]) => p.label);
    note.textContent = missing.length ? `results.json does not hold the passes of ${missing.join(" and ")}: it keeps up to 8 pipelines of some thousand passes.` : "";
    view.stage.hidden = !entries.length;
    if (!entries.length) return;
    view.reset(Math.max(...entries.map(([, , e]) => e.seconds)));
    view.layout();
  }
  state.on(["a", "b", "theme"], layout);
  return { section, layout };
}
