"use strict";

// Charts: the values at the step nearest to the pointer.
for (const figure of document.querySelectorAll(".chart[data-chart]")) {
  const data = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg");
  const make = (name, attributes) => {
    const node = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  let marks = null, tip = null;
  const clear = () => { marks?.remove(); tip?.remove(); marks = tip = null; };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    let nearest = 0;
    data.x.forEach((value, i) => { if (Math.abs(value - x) < Math.abs(data.x[nearest] - x)) nearest = i; });
    clear();
    marks = make("g", {});
    marks.append(make("line", { class: "cursor", x1: data.x[nearest], x2: data.x[nearest], y1: 10, y2: svg.viewBox.baseVal.height - 30 }));
    tip = document.createElement("div");
    tip.className = "tip";
    const title = document.createElement("b");
    title.textContent = data.steps[nearest];
    tip.append(title);
    data.series.forEach((series, i) => {
      if (series.text[nearest] === null) return;
      marks.append(make("circle", { class: `c${i % 6 + 1}`, cx: data.x[nearest], cy: series.y[nearest], r: 3.4 }));
      const line = document.createElement("div");
      line.textContent = (data.series.length > 1 ? series.name + "  " : "") + series.text[nearest];
      tip.append(line);
    });
    svg.append(marks);
    figure.append(tip);
    const room = figure.clientWidth - tip.offsetWidth - 8;
    const chart = box.left - figure.getBoundingClientRect().left;
    tip.style.left = `${Math.max(8, Math.min(room, chart + data.x[nearest] / scale + 10))}px`;
    tip.style.top = `${Math.max(4, event.clientY - figure.getBoundingClientRect().top - tip.offsetHeight - 12)}px`;
  });
  svg.addEventListener("pointerleave", clear);
}

// Videos: one clock for all of them.
const player = document.querySelector(".player");
if (player) {
  const section = player.closest("section");
  const [button, slider, output] = ["button", "input", "output"].map((name) => player.querySelector(name));
  const fps = Number(player.dataset.fps);
  const last = Number(slider.max);
  const hold = Math.round(fps * 0.6);
  let timer = null;
  let tick = 0;
  const show = (frame) => {
    slider.value = frame;
    section.style.setProperty("--frame", frame);
    output.textContent = `frame ${frame + 1} of ${last + 1}, ${(frame / fps).toFixed(2)} s`;
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  const play = () => {
    tick = Number(slider.value);
    // Half speed: the videos last under a second.
    timer = setInterval(() => { tick = (tick + 1) % (last + 1 + hold); show(Math.min(tick, last)); }, 2000 / fps);
    button.textContent = "Pause";
  };
  button.addEventListener("click", () => (timer === null ? play() : stop()));
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  const chooser = player.querySelector("select");
  chooser?.addEventListener("change", () => {
    for (const card of section.querySelectorAll(".scenes:not(.failures) .scene")) card.hidden = Boolean(chooser.value) && card.dataset.family !== chooser.value;
  });
  show(0);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play();
}
