// Axes: where a value is drawn, and which ticks are written.

function scaleOf(values, from, to, { zero = false, log = "auto", margin = 0.06 } = {}) {
  let low = Infinity, high = -Infinity, positive = Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
    if (value > 0 && value < positive) positive = value;
  }
  if (low > high) { low = 0; high = 1; }
  const byDecades = log === "auto" ? low > 0 && high >= 8 * low : log && low > 0;
  if (byDecades) {
    const room = (high / low) ** margin || 1;
    low /= room > 1 ? room : 1.3;
    high *= room > 1 ? room : 1.3;
  } else {
    const room = (high - low) * margin || Math.abs(high) * 0.1 || 1;
    low = zero ? 0 : low >= 0 ? Math.max(0, low - room) : low - room;
    high += room;
  }
  return scaleBetween(low, high, from, to, byDecades);
}

function scaleBetween(low, high, from, to, log = false) {
  const f = log ? Math.log : (x) => x;
  const a = f(low), b = f(high);
  const at = (value) => from + ((f(log ? Math.max(value, low * 1e-9) : value) - a) / (b - a || 1)) * (to - from);
  const of = (pixel) => { const x = a + ((pixel - from) / (to - from || 1)) * (b - a); return log ? Math.exp(x) : x; };
  return { low, high, from, to, log, at, of };
}

function ticksOf(scale, most) {
  const { low, high } = scale;
  if (scale.log) {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    for (const mantissas of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      for (let step = 1; step <= (mantissas.length === 1 ? 48 : 1); step *= 2) {
        const ticks = [];
        for (let k = first; k <= last; k += 1) {
          if (k % step) continue;
          for (const m of mantissas) {
            const tick = Number(`${m}e${k}`);
            if (tick >= low && tick <= high) ticks.push(tick);
          }
        }
        if (ticks.length <= most && ticks.length >= (mantissas.length === 1 ? 1 : 2)) return ticks;
      }
    }
  }
  const rough = (high - low) / Math.max(most - 1, 1);
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((size) => size >= rough * (1 - 1e-9)) ?? power;
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high * (1 + 1e-12); k += 1) ticks.push(k * step);
  return ticks;
}

// Gridlines, ticks and the axes' names, as SVG; `unit` of each axis chooses the prefixes.
function drawAxes(svg, x, y, { xUnit, yUnit, xName, yName, right, xMost, bare }) {
  const top = Math.min(y.from, y.to), bottom = Math.max(y.from, y.to), left = Math.min(x.from, x.to);
  const far = right ?? Math.max(x.from, x.to);
  const xTicks = ticksOf(x, xMost ?? Math.max(3, Math.min(9, Math.floor((far - left) / 80))));
  const yTicks = bare ? [] : ticksOf(y, Math.max(2, Math.min(7, Math.floor((bottom - top) / 38))));
  const group = s("g", { class: "axes" });
  for (const tick of yTicks) {
    const at = Math.round(y.at(tick)) + 0.5;
    group.append(s("line", { x1: left, x2: far, y1: at, y2: at, class: "grid" }));
    const text = tickText(tick, y.log ? tick : Math.max(...yTicks), yUnit);
    group.append(s("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, text));
  }
  for (const tick of xTicks) {
    const at = Math.round(x.at(tick)) + 0.5;
    group.append(s("line", { x1: at, x2: at, y1: bottom, y2: bottom + 4, class: "tick" }));
    const text = tickText(tick, x.log ? tick : Math.max(...xTicks), xUnit);
    const anchor = at > far - 26 ? "end" : "middle";
    group.append(s("text", { x: at, y: bottom + 18, "text-anchor": anchor }, text));
  }
  group.append(s("line", { x1: left, x2: far, y1: bottom + 0.5, y2: bottom + 0.5, class: "base" }));
  if (xName) group.append(s("text", { x: far, y: bottom + 36, "text-anchor": "end", class: "name" }, xName));
  if (yName) group.append(s("text", { x: 0, y: top - 10, class: "name" }, yName));
  svg.append(group);
}
