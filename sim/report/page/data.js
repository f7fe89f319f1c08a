// What results.json says, indexed: points with their prices, the front, the budget's answer, the finding.

const AXES_X = {
  times: { name: "work, × that of full store", unit: "×", of: (p) => p.times, text: times },
  work: { name: "work", unit: "FLOP", of: (p) => p.flops.total, text: flops },
  time: { name: "time of the simulation", unit: "s", of: (p) => p.seconds ?? NaN, text: seconds },
};
const AXES_Y = {
  peak: { name: "peak memory", unit: "B", of: (p) => p.peak_bytes },
  working: { name: "working memory: the peak without what is resident", unit: "B", of: (p) => p.working_bytes },
  held: { name: "micro-batches in flight, of the rank that holds most", unit: "", of: (p) => p.held ?? NaN },
};

function understand({ results, finding: told }) {
  const points = results.points.map((point, index) => ({ ...point, index, plan: null, products: null }));
  const base = points[told.base] ?? null;
  const least = base ? base.flops.total : 1;
  for (const point of points) {
    if (point.ranks) point.held = Math.max(...point.ranks.map((rank) => rank.in_flight));
    point.times = least > 0 ? point.flops.total / least : NaN;
    point.series = seriesOf(point);
  }
  for (const plan of results.plans ?? []) if (points[plan.point]) points[plan.point].plan = withPeak(spelled(plan), points[plan.point]);
  for (const run of results.pipelines ?? []) for (const lane of run.lanes) lane.part = lane.part.of.map((k) => lane.part.words[k]);
  for (const entry of results.products ?? []) if (points[entry.point]) points[entry.point].products = entry;
  const model = results.model ?? null;
  return {
    results, points, model, base,
    told, baseName: told.base_name,
    timed: points.some((p) => p.seconds !== null && p.seconds !== undefined),
    nodeName: nodeNames(model),
    resident: points.length ? Math.min(...points.slice(0, 1).map((p) => p.resident_bytes)) : 0,
    curves: results.curves ?? [],
  };
}

function seriesOf(point) {
  const { schedule, order } = point.parameters;
  return typeof schedule === "string" ? schedule : typeof order === "string" ? `${point.strategy} ${order}` : point.strategy;
}

// Columns of words, of which results.json has each word once, as words; and clocks that count each turn of a loop.
function spelled(plan) {
  const column = (c) => (c.words ? c.of.map((k) => c.words[k]) : c);
  const columns = (table) => Object.fromEntries(Object.entries(table).map(([key, c]) => [key, column(c)]));
  const unrolled = (clock, of) => {
    const turns = plan.loops.map((loop) => [...loop[of], loop.times - 1]);
    return clock.map((t) => turns.reduce((sum, [from, to, more]) => sum + more * (Math.min(Math.max(t, from), to) - from), t));
  };
  const clocks = { work: unrolled(plan.work, "work"), ...(plan.seconds ? { seconds: unrolled(plan.seconds, "seconds") } : {}) };
  return { ...plan, ...clocks, at_kind: column(plan.at_kind), lives: columns(plan.lives), steps: columns(plan.steps), ...(plan.spans ? { spans: columns(plan.spans) } : {}) };
}

function withPeak(plan, point) {
  let sample = 0, most = -1;
  for (let k = 0; k < plan.at_node.length; k += 1) {
    let total = 0;
    for (const column of Object.values(plan.bytes)) total += column[k];
    if (total > most) { most = total; sample = k; }
  }
  return { ...plan, peakSample: sample, resident: point.resident_bytes };
}

function nodeNames(model) {
  if (!model) return (node) => (node < 0 ? "graph input" : `node ${whole(node + 1)}`);
  const each = model.first.length === model.nodes;
  return (node) => (node < 0 ? "graph input" : each ? model.names[node] ?? `node ${node + 1}` : `node ${whole(node + 1)}`);
}

const copies = (p) => Object.values(p.copied_bytes).some(Boolean);

// By work, points that copy do not compete: they pay in time.
const competing = (points, x) => (x === AXES_X.time.of || points.every(copies) ? points : points.filter((p) => !copies(p)));

// No other point is as good in both and better in one.
function frontOf(points, x, y) {
  const sorted = points.filter((p) => Number.isFinite(x(p))).sort((p, q) => y(p) - y(q) || x(p) - x(q));
  const front = [];
  for (const point of sorted) if (!front.length || x(point) < x(front[front.length - 1])) front.push(point);
  return front;
}

const fronts = new WeakMap();

// The front by memory, peak rising, and the plans that copy; kept, as a dragged budget asks for them in each frame.
function ranked(points, x) {
  if (!fronts.has(points)) fronts.set(points, new Map());
  const known = fronts.get(points);
  if (!known.has(x)) known.set(x, { along: frontOf(competing(points, x), x, (p) => p.peak_bytes), copying: x === AXES_X.time.of ? [] : points.filter(copies) });
  return known.get(x);
}

// The cheapest point whose peak is within a budget, and what the next bytes less would cost.
function answerTo(budget, points, x) {
  const { along, copying } = ranked(points, x);
  const within = along.filter((p) => p.peak_bytes <= budget);
  const best = within.length ? within[within.length - 1] : null;
  const next = within.length > 1 ? within[within.length - 2] : null;
  return {
    best, next, smallest: along[0] ?? null,
    saved: next ? best.peak_bytes - next.peak_bytes : 0,
    price: next ? x(next) - x(best) : 0,
    copying: copying.filter((p) => p.peak_bytes <= budget && !(best && x(p) >= x(best)))
      .reduce((m, p) => (m && (m.seconds ?? Infinity) <= (p.seconds ?? Infinity) ? m : p), null),
  };
}

// The sentence on top, three numbers, and the two points that it compares.
function findingOf({ points, told }) {
  return { sentence: `${told.sentence}.`, numbers: told.facts.map(([label, value, detail]) => ({ label, value, detail })), a: points[told.a] ?? null, b: points[told.b] ?? null };
}

// Where most of the memory is resident, no plan can change much of the peak: then working memory is compared.
function memoryOf(base) {
  if (base.ranks && !base.peak_bytes) return { of: (p) => p.held, what: "micro-batches", axis: "held" };
  return base.resident_bytes > base.peak_bytes / 2 ? { of: (p) => p.working_bytes, what: "working memory", axis: "working" } : { of: (p) => p.peak_bytes, what: "memory", axis: "peak" };
}

// The values in memory during a sample, the largest first; `rest` is what the list leaves out, by kind.
function liveAt(plan, sample) {
  const { lives } = plan, values = [], listed = {};
  for (let k = 0; k < lives.node.length; k += 1) {
    if (lives.start[k] <= sample && sample < lives.stop[k]) {
      values.push({ kind: lives.kind[k], node: lives.node[k], tier: lives.tier[k], bytes: lives.bytes[k] });
      if (lives.tier[k] === "device") listed[lives.kind[k]] = (listed[lives.kind[k]] ?? 0) + lives.bytes[k];
    }
  }
  for (const [kind, column] of Object.entries(plan.bytes)) {
    const rest = column[sample] - (listed[kind] ?? 0);
    if (rest > 0) values.push({ kind, node: null, tier: "device", bytes: rest, rest: kind !== "workspace" });
  }
  return values.sort((p, q) => q.bytes - p.bytes);
}

// Consecutive nodes that share the part of their names before the last dot.
function blocksOf(model) {
  const blocks = [];
  model.names.forEach((name, k) => {
    const dot = name.lastIndexOf(".");
    const prefix = dot > 0 ? name.slice(0, dot) : "";
    const last = blocks[blocks.length - 1];
    if (last && last.name === prefix) last.stop = k + 1;
    else blocks.push({ name: prefix, start: k, stop: k + 1 });
  });
  return blocks;
}

// The tree that a bracketing writes: "((F3→F2→)·←F1)" → products, sweeps and leaves.
function treeOf(text) {
  let at = 0;
  const parse = () => {
    if (text[at] === "(") {
      at += 1;
      const left = parse();
      let how = "·";
      if (text[at] === "·" || text[at] === "→" || text[at] === "←") { how = text[at]; at += 1; }
      const right = parse();
      at += 1;
      return { how, left, right, first: right.first, last: left.last };
    }
    let arrows = "";
    if (text[at] === "←") { arrows += "←"; at += 1; }
    const match = /^F(\d+)/.exec(text.slice(at));
    if (!match) throw new Error("not a bracketing");
    at += match[0].length;
    const number = Number(match[1]) - 1;
    if (text[at] === "→" && (text[at + 1] === ")" || at + 1 === text.length)) { arrows += "→"; at += 1; }
    return { leaf: number, first: number, last: number, arrows };
  };
  try { return parse(); } catch { return null; }
}
