"use strict";
window.faceattr = {
  root: () => location.origin + location.pathname.replace(/\/$/, ""),
  held: { path: null, blob: null },
  // The picture stays in the visitor's browser: the server deletes an upload when it has read it,
  // so a second run (other options, whole picture) uploads it again from here.
  async fresh(picture) {
    if (!picture || !picture.path) return picture;
    this.reveal();
    const held = this.held;
    if (held.path !== picture.path) {
      const answer = await fetch(picture.url);
      if (!answer.ok) return picture;
      held.blob = await answer.blob();
      held.path = picture.path;
      const shown = document.querySelector("#picture img");
      if (shown && !shown.complete) await shown.decode().catch(() => {});
      return picture;
    }
    const form = new FormData();
    form.append("files", held.blob, picture.orig_name || "picture");
    const answer = await fetch(this.root() + "/gradio_api/upload", { method: "POST", body: form });
    if (!answer.ok) return picture;
    return { ...picture, path: (await answer.json())[0], url: null };
  },
  // A result below the fold would look like nothing had happened.
  reveal(what = "#result") {
    const result = document.querySelector(what);
    const { top } = result.getBoundingClientRect();
    if (top >= 0 && top < innerHeight / 2) return;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    result.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
  },
  async shown() {
    await this.pause(50);
    const image = document.querySelector("#result .fa-figure img");
    if (image) await image.decode().catch(() => {});
    this.place();
    if (document.querySelector("#result .fa-result, #result h2")) this.reveal();
  },
  // Every answer stands outside all faces and answers, as a line, as two, or as its number alone.
  place(figure = document.querySelector("#result .fa-figure")) {
    if (!figure) return;
    const area = figure.getBoundingClientRect();
    const boxes = [...figure.querySelectorAll(".fa-box")];
    const taken = boxes.map((box) => {
      const { left, top, width, height } = box.getBoundingClientRect();
      return { x: left - area.left, y: top - area.top, w: width, h: height };
    });
    const faces = [...taken];
    const between = (a, b, c, d) => Math.max(0, Math.min(a + b, c + d) - Math.max(a, c));
    const covered = (a) => taken.reduce(
      (sum, b) => sum + between(a.x, a.w, b.x, b.w) * between(a.y, a.h, b.y, b.h), 0);
    const left = new Set(boxes.keys());
    const crowded = area.width < 24 * boxes.length;
    for (const form of crowded ? ["fa-bare"] : ["fa-line", "fa-two", "fa-bare"]) {
      for (const i of left) boxes[i].firstElementChild.className = `fa-tag ${form}`;
      const sizes = boxes.map((box) => box.firstElementChild.getBoundingClientRect());
      for (const i of [...left]) {
        const { x, y, w, h } = faces[i];
        const { width, height } = sizes[i];
        const across = [x, x + (w - width) / 2, x + w - width, x + w, x - width];
        const beside = [y, y + h - height];
        const gaps = form === "fa-bare" ? [1, 3, 6, 9, 12, 16, 20, 26, 34, 44] : [1];
        const spots = gaps.flatMap((gap) => [
          ...across.flatMap((side) => [[side, y - height - gap], [side, y + h + gap]]),
          ...beside.flatMap((down) => [[x + w + gap, down], [x - width - gap, down]]),
        ]).map(([side, down]) => ({
          x: Math.max(0, Math.min(side, area.width - width)),
          y: Math.max(0, Math.min(down, area.height - height)), w: width, h: height,
        }));
        let spot = spots.find((place) => covered(place) === 0);
        if (!spot && form !== "fa-bare") continue;
        spot ||= spots.reduce((best, place) => (covered(place) < covered(best) ? place : best));
        left.delete(i);
        taken.push(spot);
        const { style } = boxes[i].firstElementChild;
        const edge = boxes[i].clientLeft;
        style.top = `${spot.y - y - edge}px`;
        // Marked, a number grows into its answer, away from the nearer edge.
        const near = spot.x + width / 2 < area.width / 2;
        style.left = near ? `${spot.x - x - edge}px` : "auto";
        style.right = near ? "auto" : `${x + w - spot.x - width - edge}px`;
      }
    }
  },
  mark(number) {
    for (const part of document.querySelectorAll("#result [data-face]"))
      part.classList.toggle("fa-mark", part.dataset.face === number);
  },
  async save() {
    const figure = document.querySelector("#result .fa-figure");
    const image = figure.querySelector("img");
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const pen = canvas.getContext("2d");
    const area = figure.getBoundingClientRect();
    const scale = image.naturalWidth / area.width;
    const inPicture = (part) => {
      const { left, top, width, height } = part.getBoundingClientRect();
      return [left - area.left, top - area.top, width, height].map((side) => side * scale);
    };
    pen.drawImage(image, 0, 0);
    pen.textBaseline = "middle";
    for (const box of figure.querySelectorAll(".fa-box")) {
      pen.fillStyle = pen.strokeStyle = getComputedStyle(box).borderTopColor;
      pen.lineWidth = 2 * scale;
      pen.strokeRect(...inPicture(box));
      pen.fillRect(...inPicture(box.firstElementChild));
      pen.fillStyle = "white";
      for (const word of box.firstElementChild.children) {
        const { fontSize, fontWeight, fontFamily } = getComputedStyle(word);
        pen.font = `${fontWeight} ${parseFloat(fontSize) * scale}px ${fontFamily}`;
        const [x, y, , height] = inPicture(word);
        if (height) pen.fillText(word.textContent, x, y + height / 2);
      }
    }
    const link = document.createElement("a");
    link.href = canvas.toDataURL("image/jpeg", 0.92);
    link.download = "faces.jpg";
    link.click();
  },
  pause: (milliseconds) => new Promise((done) => setTimeout(done, milliseconds)),
  // Frames go to the plain endpoint one at a time, so they wait and are refused as all others are.
  async live(wanted) {
    // A mark of its own each time: a loop that was switched off does not go on beside the next.
    const mine = wanted ? {} : null;
    this.watching = mine;
    while (mine && this.watching === mine) {
      const video = document.querySelector("#picture video");
      if (!video || !video.videoWidth) {
        await this.pause(300);
        continue;
      }
      const canvas = document.createElement("canvas");
      const scale = Math.min(1, 640 / video.videoWidth);
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight].map((n) => n * scale);
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      const form = new FormData();
      form.append("picture", await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9)));
      const answer = await fetch(this.root() + "/api/v1/predict", { method: "POST", body: form })
        .then((response) => response.json()).catch(() => ({}));
      if (this.watching === mine && video.isConnected) this.overlay(video, answer.faces || [], canvas);
      await this.pause(answer.faces ? 100 : 2000);
    }
    if (!this.watching) document.querySelector("#live-faces")?.remove();
  },
  overlay(video, faces, frame) {
    document.querySelector("#live-faces")?.remove();
    const area = video.getBoundingClientRect();
    const scale = Math.min(area.width / frame.width, area.height / frame.height);
    const figure = document.createElement("div");
    figure.id = "live-faces";
    const [width, height] = [frame.width * scale, frame.height * scale];
    const at = { left: (area.width - width) / 2, top: (area.height - height) / 2, width, height };
    for (const side in at) figure.style[side] = `${at[side]}px`;
    const mirrored = new DOMMatrix(getComputedStyle(video).transform).a < 0;
    for (const { number, box, gender, age_range } of faces) {
      const part = document.createElement("div");
      part.className = "fa-box";
      const x = mirrored ? frame.width - box.x - box.width : box.x;
      const sides = { left: x, top: box.y, width: box.width, height: box.height };
      for (const side in sides) part.style[side] = `${sides[side] * scale}px`;
      const words = [gender.display_label + (gender.unsure ? "?," : ","), age_range.label];
      const tag = part.appendChild(document.createElement("span"));
      tag.append(Object.assign(document.createElement("b"), { textContent: number }));
      for (const text of words)
        tag.append(" ", Object.assign(document.createElement("span"), { textContent: text }));
      figure.append(part);
    }
    video.parentElement.append(figure);
    this.place(figure);
  },
  async explain(button) {
    const card = button.closest(".fa-face");
    const target = card.querySelector(".fa-map");
    const crop = await (await fetch(card.querySelector(".fa-crop").src)).blob();
    const form = new FormData();
    form.append("picture", crop, "face.jpg");
    form.append("task", card.querySelector(".fa-why select").value);
    button.disabled = true;
    target.replaceChildren(Object.assign(document.createElement("p"), { textContent: "Working …" }));
    const parts = [];
    const say = (text) => parts.push(Object.assign(document.createElement("p"), { textContent: text }));
    try {
      const answer = await fetch(this.root() + "/api/v1/explain", { method: "POST", body: form });
      const values = await answer.json();
      if (!answer.ok) say(values.error ? values.error.message : "That did not work.");
      else {
        const share = values.probability >= 0.995 ? "> 99" : Math.round(values.probability * 100);
        const alt = `Heat map of face ${button.dataset.why} for "${values.display_label}"`;
        parts.push(Object.assign(document.createElement("img"), { src: values.heat_map, alt }));
        const drop = Math.round(values.largest_drop * 100);
        say(`"${values.display_label}", ${share} % on the whole face; covering the most telling ` +
            `patches lowers it by ${drop} points.`);
        say(values.note);
      }
    } catch (error) {
      say("The server did not answer; try again.");
    }
    target.replaceChildren(...parts);
    button.disabled = false;
  },
};
document.addEventListener("click", (event) => {
  const at = (what) => event.target.closest && event.target.closest(what);
  if (at("[data-why]")) window.faceattr.explain(at("[data-why]"));
  if (at("[data-more]")) {
    const open = at(".fa-face").classList.toggle("fa-open");
    at("[data-more]").setAttribute("aria-expanded", open);
  }
  if (at("[data-tab]")) {
    event.preventDefault();
    const tabs = [...document.querySelectorAll("[role=tab]")];
    tabs.find((tab) => tab.textContent.trim() === at("[data-tab]").dataset.tab).click();
  }
  if (at("[download='faces.jpg'][href='#']")) {
    event.preventDefault();
    window.faceattr.save();
  }
});
// The server's copy goes once it is read; the visitor's own one stays. Not every file that can be
// read can be shown by a browser (TIFF), nor can what is no image.
document.addEventListener("error", ({ target: image }) => {
  if (!image.matches || !image.matches("#picture img:not([src^='data:'])")) return;
  const { path, blob } = window.faceattr.held;
  if (path && image.src.endsWith(path)) {
    image.src = URL.createObjectURL(blob);
    return;
  }
  image.alt = "No preview of this file";
  const words = `<text x="50%" y="50%" text-anchor="middle" fill="#808080">${image.alt}</text>`;
  const drawn = `<svg xmlns="http://www.w3.org/2000/svg" width="240" height="80">${words}</svg>`;
  image.src = `data:image/svg+xml,${encodeURIComponent(drawn)}`;
}, true);
for (const kind of ["pointerover", "focusin"])
  document.addEventListener(kind, (event) => {
    const part = event.target.closest && event.target.closest("[data-face]");
    window.faceattr.mark(part ? part.dataset.face : null);
  });
addEventListener("resize", () => window.faceattr.place());
