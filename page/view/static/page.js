"use strict";
// The picture stays in the visitor's browser: the server deletes an upload when it has read it,
// so a second run (other options, whole picture) uploads it again from here.
window.faceattr = {
  root: () => location.origin + location.pathname.replace(/\/$/, ""),
  held: { path: null, blob: null },
  async fresh(picture) {
    if (!picture || !picture.path) return picture;
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
  const button = event.target.closest && event.target.closest("[data-why]");
  if (button) window.faceattr.explain(button);
});
