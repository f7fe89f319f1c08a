// The model: a bar for each node, its height the bytes, its colours what becomes of them.

function modelSection(data, state) {
  const body = h("div"), legend = h("div", { class: "legend" });
  const blocks = data.model ? blocksOf(data.model) : [];
  const closed = new Set();
  const words = { ...FATE_WORDS, ...(data.results.scenario.graph.wrt ? {} : { kept: "evaluated once" }) };
  const outer = (block) => block.name.split(".").slice(0, -1).join("."), upper = blocks.filter(outer);
  const grouped = blocks.filter((b) => b.stop - b.start > 1);
  const all = (fold) => { closed.clear(); if (fold) grouped.forEach((b) => closed.add(b)); layout(); };
  const section = h("section", { id: "model" }, h("h2", {}, "The model"),
    h("div", { class: "tools" }, h("span", { class: "hint" }, `${data.model && data.model.first.length < data.model.nodes ? `A bar is ${whole(data.model.nodes / data.model.first.length)} nodes` : "A bar is a node, or a folded block of nodes"}; its height is the bytes of activations and residuals, its colour what becomes of them.`),
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
    const width = body.clientWidth || 900, height = 178, flat = blocks.every((b) => !b.name) && width - PAD.left > 17 * list.length;
    const foot = flat ? 74 : upper.length ? 44 : 28;
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
    blockNames(svg, list, x, height, flat);
    return svg;
  }

  // Two rows: the last part of a block's name below its bars, what blocks share of their names below that.
  function blockNames(svg, list, x, height, flat) {
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
    rows.push(["evaluations", many > 1 ? `${whole(evaluations)} for ${whole(many)} nodes` : whole(evaluations)], ["one evaluation", flops(sum(data.model.forward_flops, bar))]);
    if (bar.block.stop - bar.block.start > 1) rows.push(h("div", { class: "hint" }, closed.has(bar.block) ? "click: unfold the block" : "click: fold the block"));
    return rows;
  }
  state.on(["a", "b", "theme"], layout);
  return { section, layout };
}
