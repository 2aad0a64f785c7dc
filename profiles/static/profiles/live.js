/* Live refresh: loads the page again and updates what changed in each [data-live].
   Pauses while the tab is hidden, and when Pause is pressed. Nodes that did not change
   are kept, so that focus, selection and scroll are kept too. */
"use strict";

const parser = new DOMParser();

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE && (node.dataset.key ?? node.id);
}

function same(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
}

function takeAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function update(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  takeAttributes(old, fresh);
  const left = [...old.childNodes];
  let next = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const index = left.findIndex((node) => same(node, child));
    if (index < 0) {
      old.insertBefore(document.importNode(child, true), next);
      continue;
    }
    const match = left[index];
    left.splice(0, index + 1).slice(0, -1).forEach((gone) => gone.remove());
    update(match, child);
    next = match.nextSibling;
  }
  left.forEach((gone) => gone.remove());
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { "X-Live": "1" } });
  const page = parser.parseFromString(await answer.text(), "text/html");
  if (page.querySelectorAll("[data-live]").length === 0) throw new Error("no page");
  for (const region of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(region.id);
    if (fresh) update(region, fresh);
  }
}

function start(control) {
  const seconds = Number(control.dataset.liveEvery);
  const button = control.querySelector("button");
  const note = control.querySelector("span");
  let paused = sessionStorage.getItem("live") === "paused";

  function say(text) {
    if (note.textContent !== text) note.textContent = text;
  }

  function show() {
    button.setAttribute("aria-pressed", String(paused));
    say(paused ? "Paused." : `Refreshes every ${seconds} seconds.`);
  }

  async function turn() {
    if (!paused && !document.hidden) {
      await refresh().then(show, () => say("The last refresh failed. The data may be out of date."));
    }
    setTimeout(turn, seconds * 1000);
  }

  button.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("live", paused ? "paused" : "on");
    show();
  });
  control.hidden = false;
  show();
  setTimeout(turn, seconds * 1000);
}

const control = document.querySelector("[data-live-every]");
if (control) start(control);
