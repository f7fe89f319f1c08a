// The page: reads the data that it carries, keeps what is chosen (also in the address), and lays out the sections.

function store(initial) {
  const listeners = [], changed = new Set();
  const state = {
    ...initial,
    set(patch) {
      for (const [key, value] of Object.entries(patch)) if (state[key] !== value) { state[key] = value; changed.add(key); }
      if (!changed.size) return;
      const keys = new Set(changed);
      changed.clear();
      for (const [wanted, act] of listeners) if (wanted.some((k) => keys.has(k))) act(keys);
    },
    on(keys, act) { listeners.push([keys, act]); },
  };
  return state;
}

async function carried() {
  const text = $("data").textContent.trim(), raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// #point=LABEL&b=LABEL&budget=BYTES&x=…&y=…
function fromAddress(data) {
  const wanted = new URLSearchParams(location.hash.slice(1)), patch = {};
  const pointOf = (text) => data.points.find((p) => p.label === text) ?? data.points[/^\d+$/.test(text ?? "") ? Number(text) : -1];
  const a = pointOf(wanted.get("point")), b = pointOf(wanted.get("b")), budget = Number(wanted.get("budget"));
  if (a) patch.a = a;
  if (b) patch.b = b;
  if (wanted.has("budget") && Number.isFinite(budget) && budget >= 0) patch.budget = budget;
  if (Object.hasOwn(AXES_X, wanted.get("x") ?? "") && (wanted.get("x") !== "time" || data.timed)) patch.x = wanted.get("x");
  if (Object.hasOwn(AXES_Y, wanted.get("y") ?? "")) patch.y = wanted.get("y");
  return patch;
}

function toAddress(state, data, first) {
  const name = (p) => (data.points.find((q) => q.label === p.label) === p ? p.label : String(p.index));
  const parts = new URLSearchParams();
  if (state.a) parts.set("point", name(state.a));
  if (state.b) parts.set("b", name(state.b));
  if (state.budget) parts.set("budget", String(Math.round(state.budget)));
  if (state.x !== first) parts.set("x", state.x);
  if (state.y !== memoryOf(data.base).axis) parts.set("y", state.y);
  return `#${parts}`;
}

function comparison(data, state) {
  const box = h("div", { class: "compare", id: "compare" });
  const rows = [
    ["peak memory", (p) => bytes(p.peak_bytes), (p) => p.peak_bytes], ["working memory", (p) => bytes(p.working_bytes), (p) => p.working_bytes],
    ["work", (p) => flops(p.flops.total), (p) => p.flops.total], [`× ${data.baseName}`, (p) => times(p.times), null],
    ["evaluated again", (p) => flops(p.flops.recompute), null],
    ...(data.base.ranks ? [["bubble", (p) => percent(p.bubble), null], ["in flight", (p) => whole(p.held), (p) => p.held]] : []),
    ...(data.timed ? [["time", (p) => (p.seconds === null ? "–" : seconds(p.seconds)), (p) => p.seconds]] : []),
    ["fits", (p) => (p.fits ? "yes" : "no"), null],
  ].filter(([name]) => (!/memory/.test(name) || data.points.some((p) => p.peak_bytes)) && (!/work|×|again/.test(name) || data.points.some((p) => p.flops.total)));
  const pick = (slot) => h("select", { "aria-label": `plan ${slot.toUpperCase()}`, id: `pick-${slot}`, onchange: (event) => state.set({ [slot]: data.points[Number(event.target.value)] ?? null }) },
    slot === "b" && h("option", { value: -1, selected: !state.b }, "none"),
    optionsOf(state[slot]).map((p) => h("option", { value: p.index, selected: p === state[slot] }, p.label)));
  // A list of thousands helps nobody: beyond 500, those on a front, and the one that is chosen.
  const optionsOf = (one) => (data.points.length <= 500 ? data.points : data.points.filter((p) => p === one || p.pareto.flops || p.pareto.seconds).slice(0, 500));
  const ratio = (p, q, of) => {
    if (!of || !p || !q || !(of(p) > 0) || !(of(q) > 0) || p === q) return "";
    const r = of(q) / of(p);
    return r === 1 ? "equal" : r >= 2 ? `× ${digits(r)}` : r > 1 ? `+ ${percent(r - 1)}` : `− ${percent(1 - r)}`;
  };
  const swap = () => state.set({ a: state.b ?? state.a, b: state.a });
  function layout() {
    const { a, b } = state;
    box.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, h("button", { type: "button", class: "plain", title: "x", onclick: swap }, "swap A and B")), h("th", {}, badge("a"), pick("a")), h("th", {}, badge("b"), pick("b")), h("th", { class: "ratio" }, "A to B"))),
      h("tbody", {}, rows.map(([name, text, of]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, a ? text(a) : ""), h("td", {}, b ? text(b) : ""), h("td", { class: "ratio" }, ratio(a, b, of)))))));
  }
  state.on(["a", "b"], layout);
  return { section: box, layout };
}

function headerOf(data, finding) {
  const { scenario, complete } = data.results, g = scenario.graph;
  const facts = [count(g.nodes, "node"), g.parameters > 0 && `${scaled(g.parameters, "")} parameters`, g.forward_flops > 0 && `one evaluation ${flops(g.forward_flops)}`,
    g.wrt && `differentiated by ${g.wrt}`, scenario.device?.name, scenario.budget_bytes && `budget ${bytes(scenario.budget_bytes)}`].filter(Boolean);
  return h("header", {}, h("div", { class: "title" }, h("h1", {}, scenario.name), h("p", { class: "facts" }, facts.join(" · "))),
    scenario.description && h("p", { class: "description" }, scenario.description),
    !complete && h("p", { class: "warning" }, "The run was interrupted: these are the points that were finished."),
    h("p", { class: "finding", id: "finding" }, shortFinding(finding.sentence, scenario.name)),
    h("div", { class: "numbers" }, finding.numbers.map((n) => h("div", { class: "number" }, h("div", { class: "label" }, n.label), h("div", { class: "value" }, n.value), h("div", { class: "detail" }, n.detail)))));
}

// The name stands above it.
const shortFinding = (sentence, name) => (sentence.startsWith(`${name}: `) ? sentence.slice(name.length + 2) : sentence);

async function start() {
  const { results, command, finding: told } = await carried();
  const data = understand({ results, finding: told }), finding = findingOf(data), main = $("main");
  main.replaceChildren(headerOf(data, finding));
  if (!data.points.length) {
    main.append(aboutSection(data, { command }).section);
    document.documentElement.dataset.ready = "";
    return;
  }
  const state = store({
    a: finding.a, b: finding.b === finding.a ? null : finding.b, x: "times", y: memoryOf(data.base).axis, slot: "a", clock: "work", scale: "auto", resident: memoryOf(data.base).axis === "peak" ? "shown" : "hidden", theme: 0,
    budget: results.scenario.budget_bytes ?? finding.a.peak_bytes,
  });
  if (data.base.ranks && data.timed) state.x = "time";
  else if (!Number.isFinite(data.points[0].times)) state.x = "work";
  const first = state.x;
  Object.assign(state, fromAddress(data));
  const front = frontSection(data, state), compare = comparison(data, state);
  front.section.append(compare.section);
  const sections = [regimesSection(data), front, compare, pipelineSection(data, state), ...(results.plans?.length ? [modelSection(data, state), memorySection(data, state), scheduleSection(data, state), streamsSection(data, state), peakSection(data, state)] : []), productsSection(data), tableSection(data, state), aboutSection(data, { command })].filter(Boolean);
  for (const { section } of sections) if (section.tagName === "SECTION") main.append(section);
  $("nav").replaceChildren(...sections.filter((x) => x.section.id !== "compare").map(({ section }) => h("a", { href: `#${section.id}`, onclick: (event) => { event.preventDefault(); section.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" }); } }, section.querySelector("h2").textContent)));
  const layout = () => { for (const section of sections) section.layout(); };
  layout();
  let pending = null, width = main.clientWidth;
  new ResizeObserver(() => {
    if (main.clientWidth === width || pending) return;
    pending = requestAnimationFrame(() => { pending = null; width = main.clientWidth; layout(); });
  }).observe(main);
  const shade = $("shade"), root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  shade.onclick = () => { root.dataset.theme = (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark"; state.set({ theme: state.theme + 1 }); };
  dark.addEventListener("change", () => state.set({ theme: state.theme + 1 }));
  // Paper is light and narrow, whatever the screen is.
  let before = null;
  addEventListener("beforeprint", () => { before = root.dataset.theme ?? null; root.dataset.theme = "light"; root.dataset.printing = ""; layout(); });
  addEventListener("afterprint", () => { if (before === null) delete root.dataset.theme; else root.dataset.theme = before; delete root.dataset.printing; layout(); });
  let timer = null;
  state.on(["a", "b", "budget", "x", "y"], () => { clearTimeout(timer); timer = setTimeout(() => { try { history.replaceState(null, "", toAddress(state, data, first)); } catch { /* a page inside another has no address of its own */ } }, 150); });
  addEventListener("hashchange", () => state.set(fromAddress(data)));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
    if (event.key === "/") { event.preventDefault(); document.querySelector("#table input").focus(); }
    else if (event.key === "x") state.set({ a: state.b ?? state.a, b: state.a });
    else if (event.key === "d") shade.click();
  });
  root.dataset.ready = "";
  performance.mark("ready");
}

start().catch((error) => {
  $("main").replaceChildren(h("p", { class: "warning" }, typeof DecompressionStream === "undefined" ? "This page needs a browser of 2023 or later." : `This page could not be drawn: ${error.message}`));
  throw error;
});
