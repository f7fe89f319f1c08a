// All points as a table: sorted, filtered, copied as CSV; only the rows in view are in the document.

const ROW_HEIGHT = 32;

function columnsOf(data) {
  const timed = data.timed, copied = data.points.some((p) => Object.values(p.copied_bytes).some(Boolean));
  const sumOf = (p) => Object.values(p.copied_bytes).reduce((t, v) => t + v, 0);
  const any = (of) => data.points.some(of);
  return [
    { key: "label", name: "plan", of: (p) => p.label, text: (p) => p.label },
    ...(any((p) => p.ranks) ? [
      { key: "bubble", name: "bubble", of: (p) => p.bubble, text: (p) => percent(p.bubble) },
      { key: "held", name: "in flight", of: (p) => p.held, text: (p) => whole(p.held), csv: "in_flight" },
    ] : []),
    { key: "peak", name: "peak", of: (p) => p.peak_bytes, text: (p) => bytes(p.peak_bytes), csv: "peak_bytes" },
    { key: "working", name: "working", of: (p) => p.working_bytes, text: (p) => bytes(p.working_bytes), csv: "working_bytes" },
    { key: "work", name: "work", of: (p) => p.flops.total, text: (p) => flops(p.flops.total), csv: "flops" },
    { key: "times", name: data.baseName === "full store" ? "× full store" : "× least", of: (p) => p.times, text: (p) => times(p.times), csv: "times" },
    { key: "again", name: "evaluated again", of: (p) => p.flops.recompute, text: (p) => (p.flops.recompute ? flops(p.flops.recompute) : "–"), csv: "recompute_flops" },
    ...(timed ? [
      { key: "time", name: "time", of: (p) => p.seconds ?? Infinity, text: (p) => (p.seconds === null ? "–" : seconds(p.seconds)), csv: "seconds", value: (p) => p.seconds },
      { key: "stall", name: "stalled", of: (p) => p.stall_seconds ?? Infinity, text: (p) => (p.stall_seconds ? seconds(p.stall_seconds) : "–"), csv: "stall_seconds", value: (p) => p.stall_seconds },
    ] : []),
    ...(copied ? [{ key: "copied", name: "copied", of: sumOf, text: (p) => (sumOf(p) ? bytes(sumOf(p)) : "–"), csv: "copied_bytes" }] : []),
    { key: "front", name: "front", of: (p) => Number(p.pareto.flops) + 2 * Number(p.pareto.seconds), text: (p) => (p.pareto.flops ? (p.pareto.seconds ? "work, time" : "work") : p.pareto.seconds ? "time" : ""), csv: "front", value: (p) => [p.pareto.flops && "work", p.pareto.seconds && "time"].filter(Boolean).join(" ") },
    { key: "fits", name: "fits", of: (p) => Number(p.fits), text: (p) => (p.fits ? "yes" : "no"), csv: "fits", value: (p) => p.fits },
  ].filter(({ key }) => (key !== "peak" && key !== "working" || any((p) => p.peak_bytes)) && (!["work", "times", "again"].includes(key) || any((p) => p.flops.total)));
}

function csvOf(columns, points) {
  const cell = (value) => { const text = String(value ?? ""); return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
  return `${[columns.map((c) => c.csv ?? c.key), ...points.map((p) => columns.map((c) => (c.value ?? c.of)(p)))].map((row) => row.map(cell).join(",")).join("\n")}\n`;
}

function tableSection(data, state) {
  const columns = columnsOf(data);
  let sort = { key: null, up: true }, list = data.points;
  const search = h("input", { type: "search", placeholder: "filter: optimal, slots=4 …", "aria-label": "filter plans", oninput: () => apply() });
  const onFront = h("input", { type: "checkbox", onchange: () => apply() });
  const fitting = h("input", { type: "checkbox", onchange: () => apply() });
  const told = h("span", { class: "hint", "aria-live": "polite" });
  const head = h("tr", {}, columns.map((c) => h("th", { scope: "col", class: c.key, "data-key": c.key }, h("button", { type: "button", onclick: () => { sort = { key: c.key, up: sort.key === c.key ? !sort.up : true }; apply(); } }, c.name))));
  const rows = h("tbody"), before = h("tbody", { "aria-hidden": "true" }), after = h("tbody", { "aria-hidden": "true" });
  const box = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "all plans", onscroll: () => draw() }, h("table", { class: "points" }, h("thead", {}, head), before, rows, after));
  const copy = h("button", { type: "button", class: "plain", onclick: async () => {
    const text = csvOf(columns, list);
    try { await navigator.clipboard.writeText(text); told.textContent = `${count(list.length, "row")} copied`; } catch {
      const area = h("textarea", { class: "offscreen" });
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      told.textContent = done ? `${count(list.length, "row")} copied` : "the browser refused to copy";
    }
  } }, "copy as CSV");
  const section = h("section", { id: "table" }, h("h2", {}, "All plans"),
    h("div", { class: "tools" }, search, h("label", {}, onFront, " on a front"), h("label", {}, fitting, " fits"), copy, told,
      h("span", { class: "hint" }, "A click chooses A, with Shift B.")), box);

  function apply() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    list = data.points.filter((p) => words.every((w) => p.label.toLowerCase().includes(w) || p.strategy.toLowerCase().includes(w))
      && (!onFront.checked || p.pareto.flops || p.pareto.seconds) && (!fitting.checked || p.fits));
    const column = columns.find((c) => c.key === sort.key);
    if (column) {
      const order = (p, q) => { const a = column.of(p), b = column.of(q); return typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a < b ? -1 : a > b ? 1 : 0; };
      list = [...list].sort((p, q) => (sort.up ? order(p, q) : order(q, p)) || p.index - q.index);
    }
    for (const cell of head.children) cell.setAttribute("aria-sort", cell.dataset.key === sort.key ? (sort.up ? "ascending" : "descending") : "none");
    told.textContent = list.length < data.points.length ? `${whole(list.length)} of ${count(data.points.length, "plan")}` : "";
    box.scrollTop = 0;
    draw();
  }

  function draw() {
    const printing = matchMedia("print").matches && list.length < 500;
    const many = printing ? list.length : Math.ceil((box.clientHeight || 480) / ROW_HEIGHT) + 12;
    const first = printing ? 0 : Math.max(0, Math.min(Math.floor(box.scrollTop / ROW_HEIGHT) - 6, list.length - many));
    const shown = list.slice(first, first + many);
    const space = (height) => (height > 0 ? [h("tr", {}, h("td", { colspan: columns.length, style: `height:${height}px;padding:0;border:0` }))] : []);
    before.replaceChildren(...space(first * ROW_HEIGHT));
    after.replaceChildren(...space((list.length - first - shown.length) * ROW_HEIGHT));
    rows.replaceChildren(...shown.map((p) => h("tr", {
      tabindex: 0, class: [p === state.a && "is-a", p === state.b && "is-b", !p.fits && "not"].filter(Boolean).join(" "), title: p.fits ? undefined : p.why_not,
      onclick: (event) => state.set({ [event.shiftKey ? "b" : "a"]: p }),
      onkeydown: (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); state.set({ [event.shiftKey ? "b" : "a"]: p }); rows.children[shown.indexOf(p)]?.focus(); }
        const next = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
        if (next) { event.preventDefault(); event.currentTarget[next]?.focus(); }
      },
    }, columns.map((c) => h("td", { class: c.key }, c.key === "label" && p === state.a && badge("a"), c.key === "label" && p === state.b && badge("b"), c.text(p))))));
    if (!shown.length) rows.append(h("tr", {}, h("td", { colspan: columns.length, class: "muted" }, "no plan matches")));
  }
  state.on(["a", "b"], draw);
  addEventListener("beforeprint", draw);
  addEventListener("afterprint", draw);
  return { section, layout: apply };
}
