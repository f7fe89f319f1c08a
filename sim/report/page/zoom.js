// A canvas along an axis of actions or seconds that can be zoomed: drag a stretch, +, −, 0, arrows.

function zoomable(label, { height, draw, tipAt, left = PAD.left }) {
  const canvas = h("canvas", { class: "layer" });
  const svg = s("svg", { class: "layer over", tabindex: 0, role: "img", "aria-label": `${label}. Plus and minus zoom, arrows move, zero shows all.` });
  const stage = h("div", { class: "stage zoomable" }, canvas, svg);
  const tools = h("div", { class: "choices" },
    ...[["+", "zoom in", () => zoom(0.5)], ["−", "zoom out", () => zoom(2)], ["all", "show all", () => show(0, whole)]].map(
      ([text, title, act]) => h("button", { type: "button", title, onclick: act }, text)));
  let whole = 1, from = 0, to = 1, start = null;
  const select = s("rect", { class: "select", hidden: true });

  function show(a, b) {
    const span = Math.min(Math.max(b - a, whole / 5000), whole);
    from = Math.min(Math.max(a, 0), whole - span);
    to = from + span;
    view.layout();
  }
  function zoom(factor) {
    const middle = (from + to) / 2, half = ((to - from) * factor) / 2;
    show(middle - half, middle + half);
  }
  const view = {
    stage, tools, svg,
    reset(size) { whole = size; from = 0; to = size; },
    layout() {
      const width = stage.clientWidth;
      if (!width) return;
      const tall = typeof height === "function" ? height() : height;
      stage.style.height = `${tall}px`;
      svg.setAttribute("viewBox", `0 0 ${width} ${tall}`);
      svg.replaceChildren();
      const x = scaleBetween(from, to, left, width - PAD.right);
      view.x = x;
      draw({ context: sharp(canvas, width, tall), svg, x, width, height: tall });
      svg.append(select);
    },
  };
  const place = (event) => { const box = stage.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  svg.addEventListener("pointerdown", (event) => { [start] = place(event); svg.setPointerCapture(event.pointerId); });
  svg.addEventListener("pointermove", (event) => {
    const [px, py] = place(event);
    if (start !== null && Math.abs(px - start) > 4) {
      tip.hide();
      select.removeAttribute("hidden");
      fill(select, { x: Math.min(px, start), y: 0, width: Math.abs(px - start), height: stage.clientHeight }, []);
      return;
    }
    const rows = view.x && px >= left ? tipAt(view.x.of(px), py) : null;
    if (rows) tip.show(event, rows); else tip.hide();
  });
  svg.addEventListener("pointerleave", () => tip.hide());
  svg.addEventListener("pointerup", (event) => {
    const [px] = place(event);
    if (start !== null && Math.abs(px - start) > 4) show(view.x.of(Math.min(px, start)), view.x.of(Math.max(px, start)));
    start = null;
    select.setAttribute("hidden", "");
  });
  svg.addEventListener("dblclick", () => show(0, whole));
  svg.addEventListener("keydown", (event) => {
    const step = (to - from) / 5;
    const act = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => show(0, whole), ArrowLeft: () => show(from - step, to - step), ArrowRight: () => show(from + step, to + step) }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  return view;
}
