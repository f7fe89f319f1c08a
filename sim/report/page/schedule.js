// The schedule of a plan: nodes over actions.

function scheduleSection(data, state) {
  const legend = h("div", { class: "legend" }), title = h("h3"), note = h("p", { class: "note" });
  const which = switched(state, () => update());
  const each = data.model && data.model.nodes === data.model.first.length;
  const labelled = Math.max(PAD.left, Math.min(190, innerWidth / 5, 16 + Math.max(0, ...(each ? data.model.names : []).map((name) => textWidth(name, 11)))));
  const view = zoomable("The schedule: nodes over actions", {
    height: () => Math.max(150, Math.min(420, (data.model?.nodes ?? 1) * 12 + 62)),
    left: labelled,
    draw({ context, svg, x, width, height }) {
      const { plan } = which.point(), n = data.model?.nodes ?? 1;
      const y = scaleBetween(-0.5, n - 0.5, 12, height - 46), tall = Math.max(y.at(1) - y.at(0), 1);
      context.save();
      context.beginPath(); context.rect(labelled, 8, width - labelled - PAD.right, height - 50); context.clip();
      const sampleX = (k) => x.at((k * plan.actions) / plan.at_node.length);
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
      const ticks = [...new Set([0, ...ticksOf(scaleBetween(0, n, 0, 1), Math.max(2, Math.floor(height / 26))).map(Math.round), n - 1])].filter((t) => t >= 0 && t < n);
      let free = -99;
      for (const tick of ticks) {
        if (y.at(tick) < free || (tick !== n - 1 && y.at(n - 1) - y.at(tick) < 14)) continue;
        free = y.at(tick) + 14;
        svg.append(s("text", { x: labelled - 8, y: y.at(tick) + 4, "text-anchor": "end", class: "small" }, each ? shortName(data.nodeName(tick), labelled - 12, 11) : whole(tick + 1)));
      }
      drawAxes(svg, x, scaleBetween(0, 0, height - 42, height - 42), { xUnit: "", xName: "actions", yUnit: "", bare: true });
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
      const sample = Math.min(Math.floor((action * plan.at_node.length) / plan.actions), plan.at_node.length - 1);
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
