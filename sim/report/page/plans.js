// What the sections about plans share: words, hues, and which plan they show.

const FATES = ["kept", "recomputed", "host", "disk", "freed"];
const FATE_WORDS = { kept: "kept for the derivatives", recomputed: "evaluated again", host: "on the host", disk: "on disk", freed: "freed before the derivatives" };
const FATE_HUES = { kept: "blue", recomputed: "orange", host: "purple", disk: "yellow", freed: "faintbar" };
const KIND_ORDER = ["resident", "gradient", "activation", "residual", "tangent", "cotangent", "jacobian", "workspace"];
const KIND_HUES = { resident: "resident", gradient: "green", activation: "blue", residual: "sky", tangent: "orange", cotangent: "vermillion", jacobian: "purple", workspace: "yellow" };
const STEP_HUES = { forward: "blue", recompute: "orange", jvp: "sky", vjp: "green", jacobian: "purple", multiply: "vermillion", copy: "muted" };
const STEP_WORDS = { forward: "evaluation", recompute: "evaluation again", jvp: "tangents (JVP)", vjp: "adjoints (VJP)", jacobian: "local Jacobian", multiply: "product", copy: "copy" };

const swatch = (hue, text) => h("span", {}, h("i", { class: "swatch", style: `background:var(--${hue})` }), text);
const chosen = (state) => [["a", state.a], ["b", state.b]].filter(([slot, p], k) => p && !(k && p === state.a));
const badge = (slot) => h("b", { class: `badge ${slot}` }, slot.toUpperCase());
const without = (point) => `results.json holds no plan of ${point.label}: it keeps up to 12, those of the front first, and none of millions of actions.`;

function valueText(value, data) {
  if (value.node === null) return value.rest ? `${value.kind}s that are not listed` : value.kind;
  return `${value.kind}(${data.nodeName(value.node)})${value.tier === "device" ? "" : ` on ${value.tier}`}`;
}

// The plan of A or B that a section shows, with the switch between them.
function switched(state, layout) {
  let slot = "a";
  const element = h("div");
  const view = {
    element,
    point: () => (slot === "b" && state.b ? state.b : state.a),
    slot: () => slot,
    refresh() { element.replaceChildren(choices("plan", [["a", "A"], ["b", "B", state.b ? "" : "no B is chosen"]], slot, (value) => { slot = value; layout(true); }).element); },
    prefer(value) { slot = value; },
  };
  return view;
}
