// Numbers as people read them, as the tables of `sim run` write them: three digits, decimal prefixes.

const PREFIXES = ["", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q"];

function scaled(value, unit) {
  if (!Number.isFinite(value)) return "–";
  let group = 0;
  while (Math.abs(value) >= 999.5 && group < PREFIXES.length - 1) { value /= 1000; group += 1; }
  const text = group === 0 && Number.isInteger(value) ? String(value) : digits(value);
  return `${text} ${PREFIXES[group]}${unit}`.trim();
}

function digits(value, count = 3) {
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(count - 1).replace("e+", "e");
  const places = size === 0 ? 0 : Math.max(0, count - 1 - Math.floor(Math.log10(size) + 1e-9));
  return value.toFixed(Math.min(places, 6));
}

const bytes = (value) => scaled(value, "B");
const flops = (value) => scaled(value, "FLOP");
const whole = (value) => Math.round(value).toLocaleString("en-US");
const count = (value, one, many = `${one}s`) => `${whole(value)} ${value === 1 ? one : many}`;

// Near 1 and below 0.1 two places would hide what a plan costs.
function times(value) {
  if (!Number.isFinite(value)) return "–";
  if (value >= 100) return `× ${whole(value)}`;
  if (value !== 1 && Math.abs(value - 1) < 0.01) return `× ${value.toFixed(4)}`;
  return `× ${value < 0.1 ? digits(value, 2) : value.toFixed(2)}`;
}

function seconds(value) {
  if (value === 0) return "0 s";
  for (const [unit, size] of [["s", 1], ["ms", 1e-3], ["µs", 1e-6]]) {
    if (value >= size * 0.9995) return value >= 1000 ? `${whole(value)} s` : `${digits(value / size)} ${unit}`;
  }
  return `${digits(value * 1e9)} ns`;
}

function percent(ratio) {
  const value = 100 * ratio;
  if (value !== 0 && Math.abs(value) < 0.1) return "< 0.1 %";
  return `${Math.abs(value) < 10 ? Number(value.toFixed(1)) : Math.round(value)} %`;
}

// The text of an axis: all its ticks with the prefix that suits the largest, so that they agree.
function tickText(value, largest, unit) {
  if (value === 0) return "0";
  if (unit === "×") return `× ${Number(value.toPrecision(3)).toLocaleString("en-US")}`;
  if (unit === "s") {
    const [name, size] = [["s", 1], ["ms", 1e-3], ["µs", 1e-6], ["ns", 1e-9]].find(([, s]) => largest >= s) ?? ["ns", 1e-9];
    return `${Number((value / size).toPrecision(4)).toLocaleString("en-US")} ${name}`;
  }
  if (!unit) return Number(value.toPrecision(6)).toLocaleString("en-US");
  let group = 0;
  while (largest >= 1000 && group < PREFIXES.length - 1) { largest /= 1000; group += 1; }
  return `${Number((value / 1000 ** group).toPrecision(4))} ${PREFIXES[group]}${unit}`;
}
