// Orders of products as trees with their multiply-adds.

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
      return h("div", { class: tree.last > 3 ? "tree wide" : "tree" }, head, drawTree(tree, products, data));
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
