// Elements, made without ever parsing text as HTML: what a scenario says is a text node.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const $ = (id) => document.getElementById(id);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// A canvas as sharp as the screen; drawing is in CSS pixels.
function sharp(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

const ruler = document.createElement("canvas").getContext("2d");
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif';

function textWidth(text, size = 12, weight = 400) {
  ruler.font = `${weight} ${size}px ${FONT}`;
  return ruler.measureText(text).width;
}

function shortened(text, width, size = 12, weight = 400) {
  if (textWidth(text, size, weight) <= width) return text;
  let low = 0, high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (textWidth(`${text.slice(0, middle)}…`, size, weight) <= width) low = middle; else high = middle - 1;
  }
  return low > 0 ? `${text.slice(0, low)}…` : "";
}

// The end of a dotted name says more than its beginning.
function shortName(name, width, size = 12) {
  const parts = name.split(".");
  for (let k = 0; k < parts.length; k += 1) {
    const text = k ? `…${parts.slice(k).join(".")}` : name;
    if (textWidth(text, size) <= width) return text;
  }
  return shortened(parts.at(-1), width, size);
}

// One box that says what is under the pointer.
const tip = {
  show(event, rows) {
    const box = $("tip");
    box.replaceChildren(...rows.map((row) => Array.isArray(row)
      ? h("div", { class: "pair" }, h("span", {}, row[0]), h("span", {}, row[1]))
      : row instanceof Node ? row : h("div", { class: "head" }, row)));
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14;
    const top = event.clientY + 14 + height > innerHeight ? event.clientY - height - 14 : event.clientY + 14;
    box.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`;
  },
  hide() { $("tip").hidden = true; },
};

// Two or more choices of which one holds.
function choices(label, options, chosen, choose) {
  const group = h("div", { class: "choices", role: "radiogroup", "aria-label": label });
  const mark = (value) => group.querySelectorAll("button").forEach((b) => {
    b.setAttribute("aria-checked", String(b.dataset.value === value));
    b.tabIndex = b.dataset.value === value ? 0 : -1;
  });
  options.forEach(([value, text, why], at) => group.append(h("button", {
    type: "button", role: "radio", "data-value": value, disabled: Boolean(why), title: why,
    onclick: () => { mark(value); choose(value); },
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      for (let k = 1; k <= options.length; k += 1) {
        const next = group.children[(at + step * k + options.length * k) % options.length];
        if (!next.disabled) { next.focus(); next.click(); return; }
      }
    },
  }, text)));
  mark(chosen);
  return { element: group, mark };
}
