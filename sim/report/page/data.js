// What results.json says, indexed: points with their prices, the front, the budget's answer, the finding.

const FULL_STORE = ["reverse_full", "in_order"];
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

function understand(results) {
  const points = results.points.map((point, index) => ({ ...point, index, plan: null, products: null }));
  const base = baselineOf(points);
  const least = base ? base.flops.total : 1;
  for (const point of points) {
    if (point.ranks) point.held = Math.max(...point.ranks.map((rank) => rank.in_flight));
    point.times = least > 0 ? point.flops.total / least : NaN;
    point.series = seriesOf(point);
  }
  for (const plan of results.plans ?? []) if (points[plan.point]) points[plan.point].plan = withPeak(plan, points[plan.point]);
  for (const entry of results.products ?? []) if (points[entry.point]) points[entry.point].products = entry;
  const model = results.model ?? null;
  return {
    results, points, model, base,
    baseName: base && base.ranks ? base.label : base && FULL_STORE.includes(base.strategy) ? (base.strategy === "in_order" ? "the listed order" : "full store") : "the least work",
    timed: points.some((p) => p.seconds !== null && p.seconds !== undefined),
    nodeName: nodeNames(model),
    resident: points.length ? Math.min(...points.slice(0, 1).map((p) => p.resident_bytes)) : 0,
    curves: results.curves ?? [],
  };
}

// What others are compared with: storing everything once if that was run, else the least work.
function baselineOf(points) {
  if (points.some((p) => p.ranks)) return points.find((p) => p.strategy === "gpipe") ?? points.reduce((m, p) => ((p.seconds ?? 0) > (m.seconds ?? 0) ? p : m));
  const full = points.filter((p) => FULL_STORE.includes(p.strategy));
  const among = full.length ? full : points;
  return among.reduce((best, p) => (best === null || p.flops.total < best.flops.total ? p : best), null);
}

function seriesOf(point) {
  const { schedule, order } = point.parameters;
  return typeof schedule === "string" ? schedule : typeof order === "string" ? `${point.strategy} ${order}` : point.strategy;
}

function withPeak(plan, point) {
  let sample = 0, most = -1;
  for (let k = 0; k < plan.at.length; k += 1) {
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

// The knee: the front point farthest below the straight line between the ends, both axes by their logarithms.
function kneeOf(front, of) {
  if (front.length < 3) return front[0] ?? null;
  const position = (values) => {
    const logs = values.every((v) => v > 0) ? values.map(Math.log) : values;
    const low = Math.min(...logs), high = Math.max(...logs);
    return logs.map((v) => (high > low ? (v - low) / (high - low) : 0));
  };
  const x = position(front.map((p) => p.flops.total)), y = position(front.map(of));
  let best = 1;
  for (let k = 1; k < front.length - 1; k += 1) if (x[k] + y[k] < x[best] + y[best]) best = k;
  return front[best];
}

// The sentence on top, three numbers, and the two points that it compares.
function findingOf(data) {
  const { points, base, results, baseName } = data;
  if (!points.length) return { sentence: "No point was finished.", numbers: [], a: null, b: null };
  const name = results.scenario.name;
  if (base.ranks) return findingOfPipelines(data);
  const fitting = points.filter((p) => p.fits), { of, what } = memoryOf(base);
  if (!fitting.length) {
    const smallest = points.reduce((m, p) => (p.peak_bytes < m.peak_bytes ? p : m));
    return {
      sentence: `Nothing fits: the smallest peak is ${bytes(smallest.peak_bytes)}, of ${smallest.label}.`,
      numbers: numbersOf(data, base, smallest), a: smallest, b: base,
    };
  }
  const front = frontOf(competing(fitting, (p) => p.flops.total), (p) => p.flops.total, of);
  const cheapest = front[front.length - 1];
  const smaller = front.filter((p) => of(p) < of(base));
  if (!FULL_STORE.includes(base.strategy) && !smaller.length) {
    const dearest = fitting.reduce((m, p) => (p.flops.total > m.flops.total ? p : m));
    if (dearest.flops.total > base.flops.total) return {
      sentence: `${name}: ${base.label} takes ${digits(dearest.flops.total / base.flops.total, 2)} times less work than ${dearest.label}, ${memoryWords(base, dearest)}.`,
      numbers: numbersOf(data, dearest, base), a: base, b: dearest,
    };
  }
  if (cheapest.flops.total < base.flops.total * 0.9) {
    const factor = base.flops.total / cheapest.flops.total;
    return {
      sentence: `${name}: ${cheapest.label} takes ${digits(factor, 2)} times less work than ${baseName}, ${memoryWords(cheapest, base)}.`,
      numbers: numbersOf(data, base, cheapest), a: cheapest, b: base,
    };
  }
  if (!base.fits) {
    const best = cheapest;
    return {
      sentence: `${name}: ${baseName} does not fit (${bytes(base.peak_bytes)}); ${best.label} does, in ${bytes(best.peak_bytes)} for ${dearer(best, base)}.`,
      numbers: numbersOf(data, base, best), a: best, b: base,
    };
  }
  if (!smaller.length) {
    const rival = fitting.find((p) => p !== base) ?? base;
    return {
      sentence: `${name}: nothing that was tried takes less memory than ${baseName}, ${bytes(base.peak_bytes)}.`,
      numbers: numbersOf(data, base, base), a: base, b: rival,
    };
  }
  // Beyond twice the work memory is seldom worth it; the knee of a front with a long tail lies there.
  const affordable = smaller.filter((p) => p.flops.total <= 2 * base.flops.total), among = affordable.length ? affordable : smaller;
  const chosen = kneeOf([...among, base], of);
  const best = chosen !== base ? chosen : among[among.length - 1];
  const hidden = fitting.filter((p) => copies(p) && of(p) < of(best) && base.seconds && p.seconds <= 1.02 * base.seconds)
    .reduce((m, p) => (m && of(m) <= of(p) ? m : p), null);
  if (hidden) return {
    sentence: `${name} in ${percent(of(hidden) / of(base))} of the ${what} of ${baseName} and in the same time, by copies that computations hide.`,
    numbers: numbersOf(data, base, hidden), a: hidden, b: base,
  };
  return {
    sentence: `${name} in ${percent(of(best) / of(base))} of the ${what} of ${baseName}, for ${dearer(best, base)}.`,
    numbers: numbersOf(data, base, best), a: best, b: base,
  };
}

function findingOfPipelines({ points, base, results }) {
  const best = points.filter((p) => p.seconds !== null).reduce((m, p) => (m && m.seconds <= p.seconds ? m : p), null) ?? base;
  const less = base.seconds ? 1 - best.seconds / base.seconds : 0, held = (p) => `${whole(p.held)} micro-batches`;
  return {
    sentence: best === base ? `${results.scenario.name}: no schedule is faster than ${base.label}, ${seconds(base.seconds)}.` : `${results.scenario.name}: ${best.label} takes ${percent(less)} less time than ${base.label}, with ${held(best)} in flight where that holds ${whole(base.held)}.`,
    numbers: [
      { value: seconds(best.seconds), label: "time", detail: `${base.label}: ${seconds(base.seconds)}` },
      { value: percent(best.bubble), label: "bubble", detail: `${base.label}: ${percent(base.bubble)}` },
      best.peak_bytes ? { value: bytes(best.peak_bytes), label: "peak memory of a rank", detail: `${base.label}: ${bytes(base.peak_bytes)}` } : { value: whole(best.held), label: "micro-batches in flight", detail: `${base.label}: ${whole(base.held)}` },
    ],
    a: best, b: base,
  };
}

// Where most of the memory is resident, no plan can change much of the peak: then working memory is compared.
function memoryOf(base) {
  if (base.ranks && !base.peak_bytes) return { of: (p) => p.held, what: "micro-batches", axis: "held" };
  return base.resident_bytes > base.peak_bytes / 2 ? { of: (p) => p.working_bytes, what: "working memory", axis: "working" } : { of: (p) => p.peak_bytes, what: "memory", axis: "peak" };
}

function memoryWords(point, other) {
  const { of, what } = memoryOf(other), ratio = of(point) / of(other);
  return ratio > 1.5 ? `with ${digits(ratio, 2)} times its ${what}` : `in ${percent(ratio)} of its ${what}`;
}

function dearer(point, base) {
  const ratio = point.flops.total / base.flops.total;
  if (ratio === 1) return "the same work";
  if (ratio >= 2) return `${digits(ratio)} times the work`;
  return ratio > 1 ? `${percent(ratio - 1)} more work` : `${percent(1 - ratio)} less work`;
}

function numbersOf(data, base, best) {
  const smallest = data.points.reduce((m, p) => (p.peak_bytes < m.peak_bytes ? p : m)), { of, what } = memoryOf(base);
  const numbers = [
    { value: bytes(of(best)), label: what === "memory" ? "peak memory" : what, detail: best === base ? best.label : `${base === data.base ? data.baseName : base.label}: ${bytes(of(base))}` },
    { value: times(best.times), label: "work", detail: `${flops(best.flops.total)}; ${flops(best.flops.recompute)} of it again` },
  ];
  if (best.seconds !== null && base.seconds !== null) {
    numbers.push({ value: seconds(best.seconds), label: "time of the simulation", detail: `${data.baseName}: ${seconds(base.seconds)}` });
  } else {
    numbers.push({ value: bytes(smallest.peak_bytes), label: "smallest peak of all", detail: `${smallest.label}, ${times(smallest.times)} work` });
  }
  return numbers;
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
