// Orders of products as trees, the map of regimes, and what the numbers mean.

const MOST_LEAVES = 24;

function productsSection(data) {
  const seen = new Map();
  for (const p of data.points) {
    if (!p.products) continue;
    const { bracketing } = p.products;
    if (seen.has(bracketing)) seen.get(bracketing).push(p); else seen.set(bracketing, [p]);
  }
  if (!seen.size) return null;
  const body = h("div", { class: "trees" });
  const section = h("section", { id: "products" }, h("h2", {}, "Orders of products"),
    h("p", { class: "note" }, "F1 is the first element's Jacobian. A dot is a product of two Jacobians with its multiply-adds; an arrow takes a Jacobian through an element by tangents (→) or adjoints (←), never forming the element's own. The dearest steps are marked."), body);
  function layout() {
    body.replaceChildren(...[...seen.values()].map((points) => {
      const { products } = points[0], total = products.flops.reduce((t, f) => t + f, 0);
      const tree = treeOf(products.bracketing);
      const head = h("h3", {}, points.map((p) => p.label).join(" = "), h("span", { class: "muted" }, ` ${whole(total / 2)} multiply-adds`));
      if (!tree || tree.last >= MOST_LEAVES) return h("div", { class: "tree wide" }, head, h("p", { class: "mono" }, shortened(products.bracketing, 900, 12)), h("p", { class: "note" }, `${count((tree?.last ?? 0) + 1, "factor")}: too many for a tree. The dearest step takes ${whole(Math.max(...products.flops) / 2)} multiply-adds.`));
      return h("div", { class: tree.last > 6 ? "tree wide" : "tree" }, head, drawTree(tree, products, data));
    }));
  }
  return { section, layout };
}

function drawTree(tree, products, data) {
  const costs = { multiply: new Map(), jvp: new Map(), vjp: new Map(), jacobian: new Map() };
  products.kind.forEach((kind, k) => costs[kind]?.set(kind === "multiply" ? `${products.node[k]},${products.middle[k]},${products.source[k]}` : products.node[k], products.flops[k]));
  // The product of [first, last] split after the right part: Jacobian of `last` by `middle` times that of `middle` by what is before `first`.
  const costOf = (node) => {
    if (node.leaf !== undefined) return (node.arrows === "→" ? costs.jvp : node.arrows === "←" ? costs.vjp : costs.jacobian).get(node.leaf) ?? 0;
    if (node.how === "→") return costs.jvp.get(node.left.last) ?? 0;
    if (node.how === "←") return costs.vjp.get(node.right.first) ?? 0;
    return costs.multiply.get(`${node.last},${node.right.last},${node.first - 1}`) ?? 0;
  };
  const leaves = tree.last + 1, step = leaves > 12 ? 62 : 84, depthOf = (node) => (node.leaf !== undefined ? 0 : 1 + Math.max(depthOf(node.left), depthOf(node.right)));
  const depth = depthOf(tree), rise = Math.max(16, Math.min(46, 420 / Math.max(depth, 1))), width = leaves * step + 40, height = depth * rise + 54;
  let most = 0;
  const visit = (node, act) => { act(node); if (node.leaf === undefined) { visit(node.left, act); visit(node.right, act); } };
  visit(tree, (node) => { most = Math.max(most, costOf(node)); });
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", style: `max-width:${width}px`, role: "img", "aria-label": products.bracketing });
  const lines = s("g"), marks = s("g");
  svg.append(lines, marks);
  // The factors stand as in the product: the last element on the left.
  const place = (node, level) => {
    const y = 22 + level * rise;
    if (node.leaf !== undefined) return { x: 20 + (leaves - 1 - node.leaf + 0.5) * step, y: height - 26 };
    const left = place(node.left, level + 1), right = place(node.right, level + 1), x = (left.x + right.x) / 2;
    for (const child of [left, right]) lines.append(s("path", { d: `M${x} ${y}L${child.x} ${child.y}`, class: "branch" }));
    put(node, x, y);
    return { x, y };
  };
  const put = (node, x, y) => {
    const cost = costOf(node), top = cost === most && most > 0, text = whole(cost / 2), how = { "·": "·", "→": "→", "←": "←" }[node.how];
    const label = `${how} ${text}`, size = Math.max(textWidth(label, 11, 600) + 14, 20);
    marks.append(s("g", { onpointermove: (event) => tip.show(event, [`F${node.last + 1} … F${node.first + 1}`, [{ "·": "product", "→": "tangents", "←": "adjoints" }[node.how], `${text} multiply-adds`]]), onpointerleave: () => tip.hide() },
      s("rect", { x: x - size / 2, y: y - 10, width: size, height: 20, rx: 10, class: top ? "join most" : "join" }), s("text", { x, y: y + 4, "text-anchor": "middle", class: top ? "small strong mosttext" : "small" }, label)));
  };
  place(tree, 0);
  visit(tree, (node) => {
    if (node.leaf === undefined) return;
    const x = 20 + (leaves - 1 - node.leaf + 0.5) * step, cost = costOf(node), name = `${node.arrows === "←" ? "← " : ""}F${node.leaf + 1}${node.arrows === "→" ? " →" : ""}`;
    marks.append(s("g", { onpointermove: (event) => tip.show(event, [`F${node.leaf + 1}: ${data.nodeName(node.leaf)}`, ...(cost ? [["multiply-adds", whole(cost / 2)]] : [])]), onpointerleave: () => tip.hide() },
      s("circle", { cx: x, cy: height - 26, r: 4, class: "leaf" }), s("text", { x, y: height - 7, "text-anchor": "middle", class: "small" }, name)));
  });
  return svg;
}

function regimesSection(data) {
  const map = data.results.regimes;
  if (!map) return null;
  const hues = ["vermillion", "blue", "sky", "green", "orange", "purple", "yellow"];
  const body = h("div"), wins = map.strategies.map((_, k) => map.winner.flat().filter((w) => w === k).length);
  const text = { flops, peak_bytes: bytes, seconds }[map.by] ?? String;
  const section = h("section", { id: "regimes" }, h("h2", {}, "Who wins where"),
    h("p", { class: "note" }, `The least ${{ flops: "work", peak_bytes: "peak memory", seconds: "time" }[map.by]} over ${map.x.label} and ${map.y.label}; a number is what the next best takes over the winner.`),
    h("div", { class: "legend" }, map.strategies.map((p, k) => swatch(hues[k % 7], `${p.label}, ${count(wins[k], "cell")}`))), body);
  function layout() {
    const columns = map.x.values.length, rows = map.y.values.length, width = section.clientWidth || 900;
    const cell = Math.max(22, Math.min(58, (width - PAD.left - 30) / columns)), tall = Math.min(cell, 38), right = PAD.left + columns * cell, bottom = rows * tall + 16;
    const svg = s("svg", { viewBox: `0 0 ${width} ${bottom + 48}`, class: "chart", role: "img", "aria-label": "the winner of each cell" });
    map.winner.forEach((row, j) => row.forEach((winner, i) => {
      const x = PAD.left + i * cell, y = bottom - (j + 1) * tall, factor = map.factor[j][i];
      const rowsOf = () => [`${map.x.label} ${map.x.values[i]}, ${map.y.label} ${map.y.values[j]}`, ...map.strategies.map((p, k) => [`${p.label}${k === winner ? " (wins)" : ""}`, map.values[k][j][i] === null ? "does not fit or apply" : text(map.values[k][j][i])])];
      svg.append(s("g", { onpointermove: (event) => tip.show(event, rowsOf()), onpointerleave: () => tip.hide() },
        s("rect", { x: x + 0.5, y: y + 0.5, width: cell - 1, height: tall - 1, rx: 2, fill: winner === null ? "var(--faintbar)" : `var(--${hues[winner % 7]})`, "fill-opacity": factor ? Math.min(0.35 + 0.65 * Math.log2(factor) / 3, 1) : 0.35 }),
        factor && factor >= 1.005 && cell >= 34 && s("text", { x: x + cell / 2, y: y + tall / 2 + 4, "text-anchor": "middle", class: factor >= 3.5 && ["blue", "vermillion", "green"].includes(hues[winner % 7]) ? "small cell light" : "small cell" }, factor >= 10 ? whole(factor) : factor.toFixed(factor >= 1.095 ? 1 : 2))));
    }));
    const most = Math.max(1, Math.ceil(44 / cell));
    map.x.values.forEach((v, i) => { if (i % most === 0) svg.append(s("text", { x: PAD.left + (i + 0.5) * cell, y: bottom + 16, "text-anchor": "middle" }, shortText(v))); });
    map.y.values.forEach((v, j) => { if (j % Math.ceil(15 / tall) === 0) svg.append(s("text", { x: PAD.left - 8, y: bottom - (j + 0.5) * tall + 4, "text-anchor": "end" }, shortText(v))); });
    svg.append(s("text", { x: right, y: bottom + 38, "text-anchor": "end", class: "name" }, map.x.label), s("text", { x: 0, y: 11, class: "name" }, map.y.label));
    body.replaceChildren(svg);
  }
  return { section, layout };
}

const shortText = (value) => (typeof value === "number" ? (value >= 10000 ? scaled(value, "") : value.toLocaleString("en-US")) : shortened(String(value), 60));

function aboutSection(data, origin) {
  const { scenario, version, complete } = data.results;
  const planned = data.points.filter((p) => p.plan).length;
  const facts = [
    ["command", origin.command], ["scenario", scenario.name], ["sha256 of the scenario", scenario.sha256], ["version", version],
    ["points", `${whole(data.points.length)}${complete ? "" : " (the run was interrupted)"}`], ["plans drawn in detail", `${planned} of ${whole(data.points.length)}`],
  ].filter(([, value]) => value);
  const device = scenario.device ? Object.entries(scenario.device).filter(([, value]) => value !== null && value !== undefined) : [];
  const unit = (key, value) => (typeof value !== "number" ? String(value) : /bytes_per_s|bandwidth/.test(key) ? `${bytes(value)}/s` : /flops/.test(key) ? `${flops(value)}/s` : /bytes|memory|capacity/.test(key) ? bytes(value) : /seconds|overhead|_s$/.test(key) ? seconds(value) : whole(value));
  const list = (title, rows) => h("div", {}, h("h3", {}, title), h("dl", {}, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: /sha256|command/.test(name) ? "mono" : "" }, value)])));
  const section = h("section", { id: "about" }, h("h2", {}, "What the numbers mean"),
    h("ul", { class: "assumptions" }, [
      "Bytes and flops are exact integers of a replay, action by action; a multiply-add is 2 flops. Prefixes are decimal: 1 GB is 1,000,000,000 bytes.",
      "The peak is taken during each action: what it reads, writes and needs as workspace lives together, and is freed after. Resident bytes (parameters, optimizer state, inputs, the result) are in the peak and not in the working memory.",
      "What stays in memory follows from the order alone: a value lives from the action that makes it to the last that reads it. Allocators round up and fragment; that is not in here.",
      data.timed ? "Times are of an event simulation: an action takes the larger of flops over rate and bytes over bandwidth, plus a launch overhead; copies run on streams of their own." : "The scenario names no device, so there are no times.",
      "A planned front is of schedules that were found; a bound says that no schedule of its class lies below it.",
      "Memory over time shows up to 200 samples of each plan, each the fullest action of its stretch, so that the peak is among them.",
    ].map((text) => h("li", {}, text))),
    h("div", { class: "two" }, list("This run", facts), device.length > 0 && list("Device", device.map(([key, value]) => [key.replaceAll("_", " "), unit(key, value)]))));
  return { section, layout() {} };
}
