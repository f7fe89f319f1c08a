// The map of regimes: who wins in each cell.

function regimesSection(data) {
  const map = data.results.regimes;
  if (!map) return null;
  const hues = ["vermillion", "blue", "sky", "green", "orange", "purple", "yellow"];
  const body = h("div"), wins = map.strategies.map((_, k) => map.winner.flat().filter((w) => w === k).length);
  const alike = (j, i) => map.values.filter((of) => of[j][i] !== null).length > 1;
  const text = { flops, peak_bytes: bytes, seconds }[map.by] ?? String;
  const section = h("section", { id: "regimes" }, h("h2", {}, "Who wins where"),
    h("p", { class: "note" }, `The least ${{ flops: "work", peak_bytes: "peak memory", seconds: "time" }[map.by]} over ${map.x.label} and ${map.y.label}; a number is what the next best takes over the winner, = that all are equal.`),
    h("div", { class: "legend" }, map.strategies.map((p, k) => swatch(hues[k % 7], `${p.label}, ${count(wins[k], "cell")}`))), body);
  function layout() {
    const columns = map.x.values.length, rows = map.y.values.length, width = section.clientWidth || 900;
    const cell = Math.max(22, Math.min(58, (width - PAD.left - 30) / columns)), tall = Math.min(cell, 38), right = PAD.left + columns * cell, bottom = rows * tall + 16;
    const svg = s("svg", { viewBox: `0 0 ${width} ${bottom + 48}`, class: "chart", role: "img", "aria-label": "the winner of each cell" });
    map.winner.forEach((row, j) => row.forEach((winner, i) => {
      const x = PAD.left + i * cell, y = bottom - (j + 1) * tall, factor = map.factor[j][i];
      const rowsOf = () => [`${map.x.label} ${map.x.values[i]}, ${map.y.label} ${map.y.values[j]}`, ...map.strategies.map((p, k) => [`${p.label}${k === winner ? " (wins)" : ""}`, map.values[k][j][i] === null ? "does not fit or apply" : text(map.values[k][j][i])])];
      svg.append(s("g", { onpointermove: (event) => tip.show(event, rowsOf()), onpointerleave: () => tip.hide() },
        s("rect", { x: x + 0.5, y: y + 0.5, width: cell - 1, height: tall - 1, rx: 2, fill: winner === null ? "var(--faintbar)" : `var(--${hues[winner % 7]})`, "fill-opacity": factor ? Math.min(0.35 + 0.65 * Math.log2(factor) / 3, 1) : 0.35 }),
        winner !== null && !factor && cell >= 34 && s("text", { x: x + cell / 2, y: y + tall / 2 + 4, "text-anchor": "middle", class: "small cell" }, alike(j, i) ? "=" : ""),
        factor && factor >= 1.005 && cell >= 34 && s("text", { x: x + cell / 2, y: y + tall / 2 + 4, "text-anchor": "middle", class: factor >= 3.5 && ["blue", "vermillion", "green"].includes(hues[winner % 7]) ? "small cell light" : "small cell" }, factor >= 10 ? whole(factor) : factor.toFixed(factor >= 1.095 ? 1 : 2))));
    }));
    const most = Math.max(1, Math.ceil(44 / cell));
    map.x.values.forEach((v, i) => { if (i % most === 0) svg.append(s("text", { x: PAD.left + (i + 0.5) * cell, y: bottom + 16, "text-anchor": "middle" }, shortText(v))); });
    map.y.values.forEach((v, j) => { if (j % Math.ceil(15 / tall) === 0) svg.append(s("text", { x: PAD.left - 8, y: bottom - (j + 0.5) * tall + 4, "text-anchor": "end" }, shortText(v))); });
    svg.append(s("text", { x: right, y: bottom + 38, "text-anchor": "end", class: "name" }, map.x.label), s("text", { x: 0, y: 11, class: "name" }, map.y.label));
    body.replaceChildren(svg);
  }
  return { section, layout };
}

const shortText = (value) => (typeof value === "number" ? (value >= 10000 ? scaled(value, "") : value.toLocaleString("en-US")) : shortened(String(value), 60));
