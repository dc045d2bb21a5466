"use strict";

// Point clouds over time, drawn by splatting into an image with a depth buffer: no WebGL needed.
(() => {
  const root = document.getElementById("viewer");
  if (!root) return;
  const canvas = root.querySelector("canvas");
  const context = canvas.getContext("2d");
  const field = (name) => root.querySelector(`[name="${name}"]`);
  const [button, output, slider] = [root.querySelector("button"), root.querySelector("output"), field("time")];
  const sources = [...root.querySelectorAll("script.cloud")];
  const cache = new Map();
  const RAMP = [[45, 139, 87], [222, 178, 52], [214, 62, 46]];
  const OBJECTS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];
  const view = { yaw: 0, pitch: 0, zoom: 1 };
  let scene = null, cloud = null, timer = null, tick = 0, pending = false, highest = 0.1;

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const metres = (text) => Float32Array.from(new Int16Array(bytes(text).buffer), (v) => v / 1000);

  function load(index) {
    if (!cache.has(index)) {
      const s = JSON.parse(sources[index].textContent);
      for (const key of ["background", "truth"]) s[key] = metres(s[key]);
      for (const key of ["backgroundRgb", "object", "rgb"]) s[key] = bytes(s[key]);
      for (const c of Object.values(s.clouds)) {
        c.points = metres(c.points);
        c.present = bytes(c.present);
        c.path = paths(s, c.points, c.present);
      }
      s.path = paths(s, s.truth, null);
      // Turn about the middle of what moves, as the simulator has it.
      s.centre = [0, 1, 2].map((axis) => {
        let low = Infinity, high = -Infinity;
        for (let i = axis; i < s.truth.length; i += 3) { low = Math.min(low, s.truth[i]); high = Math.max(high, s.truth[i]); }
        return (low + high) / 2;
      });
      // What the camera saw fills the canvas at first.
      const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
      for (const points of [s.background, s.truth]) {
        for (let i = 0; i < points.length; i += 3) {
          for (const axis of [0, 1]) {
            const slope = (points[i + axis] - s.centre[axis]) / Math.max(points[i + 2], 0.05);
            low[axis] = Math.min(low[axis], slope);
            high[axis] = Math.max(high[axis], slope);
          }
        }
      }
      s.extent = [0, 1].map((axis) => Math.max(1e-3, high[axis] - low[axis]));
      s.middle = [0, 1].map((axis) => (high[axis] + low[axis]) / 2);
      cache.set(index, s);
    }
    return cache.get(index);
  }

  // Centroid of each object in each frame, null where none of its points is left.
  function paths(s, points, present) {
    const count = s.object.length;
    return s.objects.map((_, o) => Array.from({ length: s.frames }, (_, t) => {
      const sum = [0, 0, 0];
      let n = 0;
      for (let p = 0; p < count; p++) {
        const i = t * count + p;
        if (s.object[p] !== o || (present && !present[i])) continue;
        for (let axis = 0; axis < 3; axis++) sum[axis] += points[3 * i + axis];
        n++;
      }
      return n ? sum.map((v) => v / n) : null;
    }));
  }

  function colourOf(name) {
    const probe = getComputedStyle(root).getPropertyValue(name).trim();
    const value = parseInt(probe.slice(1), 16);
    return [value >> 16, (value >> 8) & 255, value & 255];
  }
  function ramp(share) {
    const x = Math.max(0, Math.min(1, share)) * 2, i = Math.min(1, Math.floor(x));
    return RAMP[i].map((v, c) => v + (RAMP[i + 1][c] - v) * (x - i));
  }

  function choose(index) {
    scene = load(index);
    const stage = field("stage"), before = stage.value;
    stage.replaceChildren(...Object.entries(scene.clouds).map(([name, c]) => new Option(c.title, name)));
    stage.value = before in scene.clouds ? before : Object.keys(scene.clouds).at(-1) ?? "";
    slider.max = scene.frames - 1;
    const all = Object.values(scene.clouds).flatMap((c) => c.errors.flat()).filter((e) => e !== null).sort((a, b) => a - b);
    highest = Math.max(0.1, all.length ? all[Math.floor(0.95 * (all.length - 1))] : 0);
    root.querySelector(".key b").textContent = `${(100 * highest).toFixed(0)} cm and more`;
    Object.assign(view, { yaw: 0, pitch: 0, zoom: 1 });
    pick();
  }
  function pick() {
    cloud = scene.clouds[field("stage").value] ?? null;
    show(Math.min(Number(slider.value), scene.frames - 1));
  }

  function show(frame) {
    slider.value = frame;
    root.dataset.frame = frame;
    output.textContent = `frame ${frame + 1} of ${scene.frames}, ${(frame / scene.fps).toFixed(2)} s`;
    const chips = scene.objects.map((name, o) => {
      const error = cloud?.errors[frame][o];
      if (error === undefined || error === null) return null;
      const chip = document.createElement("span"), dot = document.createElement("i");
      dot.style.background = `rgb(${ramp(error / highest).map(Math.round)})`;
      chip.append(dot, `${name} ${(100 * error).toFixed(1)} cm off`);
      return chip;
    });
    root.querySelector(".errors").replaceChildren(...chips.filter(Boolean));
    request();
  }
  function request() {
    if (!pending) { pending = true; requestAnimationFrame(() => { pending = false; draw(); }); }
  }

  function draw() {
    const scale = Math.min(2, devicePixelRatio || 1);
    const width = Math.max(2, Math.round(canvas.clientWidth * scale));
    const height = Math.max(2, Math.round(canvas.clientHeight * scale));
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer), depth = new Float32Array(width * height).fill(Infinity);
    const paper = colourOf("--page"), ink = colourOf("--ink");
    const pack = (c, keep = 1) => {
      const [r, g, b] = c.map((v, i) => Math.round(v * keep + paper[i] * (1 - keep)));
      return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    };
    pixels.fill(pack(paper));
    const frame = Number(slider.value), count = scene.object.length;
    const [cy, sy, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
    const [x0, y0, z0] = scene.centre;
    const split = field("split").checked;
    const panel = split ? Math.floor(width / 2) : width;
    const focal = 0.96 * Math.min(panel / scene.extent[0], height / scene.extent[1]) * view.zoom;

    function splat(x, y, z, colour, size, left) {
      // Camera frame: x right, y down, z ahead. Turn about the centre, then look from the camera.
      const dx = x - x0, dy = y - y0, dz = z - z0;
      const ax = cy * dx + sy * dz, az = -sy * dx + cy * dz;
      const far = cp * az - sp * dy + z0;
      if (far < 0.05) return;
      const u = focal * (ax / far - scene.middle[0]) + panel / 2;
      const v = focal * ((cp * dy + sp * az) / far - scene.middle[1]) + height / 2;
      const reach = Math.max(1, size * scale);
      const u0 = Math.round(u - reach / 2), v0 = Math.round(v - reach / 2);
      for (let row = Math.max(0, v0); row < Math.min(height, v0 + reach); row++) {
        for (let column = Math.max(0, u0); column < Math.min(panel, u0 + reach); column++) {
          const i = row * width + column + left;
          if (far < depth[i]) { depth[i] = far; pixels[i] = colour; }
        }
      }
    }
    function line(path, until, colour, left) {
      for (let t = 1; t <= until; t++) {
        const [a, b] = [path[t - 1], path[t]];
        if (!a || !b) continue;
        for (let k = 0; k <= 60; k++) splat(...a.map((v, i) => v + (b[i] - v) * k / 60), colour, 2, left);
      }
    }
    const stride = 3 * count * frame;
    const simulated = (left) => {
      const colour = pack(ink, 0.6);
      for (let p = 0; p < count; p++) {
        const i = stride + 3 * p;
        splat(scene.truth[i], scene.truth[i + 1], scene.truth[i + 2], colour, 3, left);
      }
      if (field("paths").checked) for (const path of scene.path) line(path, frame, pack(ink, 0.85), left);
    };
    const generated = (left) => {
      const mode = field("colour").value;
      const whole = scene.objects.map((_, o) => mode === "object"
        ? pack(colourOf(OBJECTS[o % 6])) : pack(ramp((cloud.errors[frame][o] ?? 0) / highest)));
      for (let p = 0; p < count; p++) {
        if (!cloud.present[frame * count + p]) continue;
        const i = stride + 3 * p;
        const colour = mode === "rgb" ? pack([...scene.rgb.subarray(3 * p, 3 * p + 3)]) : whole[scene.object[p]];
        splat(cloud.points[i], cloud.points[i + 1], cloud.points[i + 2], colour, 4, left);
      }
      if (field("paths").checked) cloud.path.forEach((path, o) => line(path, frame, whole[o], left));
    };
    for (const left of split ? [0, panel] : [0]) {
      if (field("background").checked) {
        for (let i = 0; i < scene.background.length; i += 3) {
          splat(scene.background[i], scene.background[i + 1], scene.background[i + 2],
            pack([...scene.backgroundRgb.subarray(i, i + 3)], 0.45), 2, left);
        }
      }
      if (field("truth").checked && (!split || left > 0)) simulated(left);
      if (cloud && field("generated").checked && left === 0) generated(left);
    }
    if (split) for (let row = 0; row < height; row++) pixels[row * width + panel] = pack(ink, 0.3);
    context.putImageData(image, 0, 0);
  }

  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  const play = () => {
    tick = Number(slider.value) >= scene.frames - 1 ? -1 : Number(slider.value);
    const hold = Math.round(scene.fps * 0.6);
    timer = setInterval(() => { tick = (tick + 1) % (scene.frames + hold); show(Math.min(tick, scene.frames - 1)); }, 2000 / scene.fps);
    button.textContent = "Pause";
  };
  button.addEventListener("click", () => (timer === null ? play() : stop()));
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  field("scene").addEventListener("change", () => choose(Number(field("scene").value)));
  field("stage").addEventListener("change", pick);
  for (const name of ["colour", "generated", "truth", "paths", "background", "split"]) field(name).addEventListener("change", request);

  const turn = (yaw, pitch) => {
    view.yaw += yaw;
    view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + pitch));
    request();
  };
  const zoom = (factor) => { view.zoom = Math.max(0.3, Math.min(8, view.zoom * factor)); request(); };
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) turn(-event.movementX * 0.008, event.movementY * 0.008);
  });
  canvas.addEventListener("dblclick", () => { Object.assign(view, { yaw: 0, pitch: 0, zoom: 1 }); request(); });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.002));
  }, { passive: false });
  const KEYS = {
    ArrowLeft: () => turn(0.08, 0), ArrowRight: () => turn(-0.08, 0), ArrowUp: () => turn(0, -0.08), ArrowDown: () => turn(0, 0.08),
    "+": () => zoom(1.1), "=": () => zoom(1.1), "-": () => zoom(1 / 1.1),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.key in KEYS) { event.preventDefault(); KEYS[event.key](); }
  });
  new ResizeObserver(request).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", request);
  for (const link of document.querySelectorAll("a[data-cloud]")) {
    link.addEventListener("click", () => { field("scene").value = link.dataset.cloud; choose(Number(link.dataset.cloud)); });
  }
  choose(0);
})();
