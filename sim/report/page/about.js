// What the numbers mean, and what they were computed from.

function aboutSection(data, origin) {
  const { scenario, version, complete } = data.results;
  const planned = data.points.filter((p) => p.plan).length;
  const facts = [
    ["command", origin.command], ["scenario", scenario.name], ["sha256 of the scenario", scenario.sha256], ["version", version],
    ["points", `${whole(data.points.length)}${complete ? "" : " (the run was interrupted)"}`], ["plans drawn in detail", `${planned} of ${whole(data.points.length)}`],
  ].filter(([, value]) => value);
  const device = scenario.device ? Object.entries(scenario.device).filter(([, value]) => value !== null && value !== undefined) : [];
  const unit = (key, value) => (typeof value !== "number" ? String(value) : /bytes_per_s|bandwidth/.test(key) ? `${bytes(value)}/s` : /flops/.test(key) ? `${flops(value)}/s` : /bytes|memory|capacity/.test(key) ? bytes(value) : /seconds|overhead|_s$/.test(key) ? seconds(value) : whole(value));
  const list = (title, rows) => h("div", {}, h("h3", {}, title), h("dl", {}, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: /sha256|command/.test(name) ? "mono" : "" }, value)])));
  const section = h("section", { id: "about" }, h("h2", {}, "What the numbers mean"),
    h("ul", { class: "assumptions" }, [
      "Bytes and flops are exact integers of a replay, action by action; a multiply-add is 2 flops. Prefixes are decimal: 1 GB is 1,000,000,000 bytes.",
      "The peak is taken during each action: what it reads, writes and needs as workspace lives together, and is freed after. Resident bytes (parameters, optimizer state, inputs, the result) are in the peak and not in the working memory.",
      "What stays in memory follows from the order alone: a value lives from the action that makes it to the last that reads it. Allocators round up and fragment; that is not in here.",
      data.timed ? "Times are of an event simulation: an action takes the larger of flops over rate and bytes over bandwidth, plus a launch overhead; copies run on streams of their own." : "The scenario names no device, so there are no times.",
      "A planned front is of schedules that were found; a bound says that no schedule of its class lies below it.",
      "Memory over time shows up to 200 samples of each plan, each the fullest action of its stretch, so that the peak is among them.",
    ].map((text) => h("li", {}, text))),
    h("div", { class: "two" }, list("This run", facts), device.length > 0 && list("Device", device.map(([key, value]) => [key.replaceAll("_", " "), unit(key, value)]))));
  return { section, layout() {} };
}
