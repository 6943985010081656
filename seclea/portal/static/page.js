"use strict";
// On every page: times in the reader's own zone, digests that copy themselves, and what the other scripts share.

async function get(path) {
  const reply = await ask(path, "application/json");
  return reply.json();
}

async function getPage(path) {
  const reply = await ask(path, "text/html");
  return new DOMParser().parseFromString(await reply.text(), "text/html");
}

async function ask(path, accept, retried = false) {
  const reply = await fetch(path, { headers: { Accept: accept } });
  if (reply.status === 401 && !retried) {
    const renewed = await fetch("/api/token/refresh/", { method: "POST" });
    if (renewed.ok) return ask(path, accept, true);
    location.reload(); // the login page stands there now
  }
  if (!reply.ok) throw new Error(`${path.split("?")[0]} answered ${reply.status}`);
  return reply;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function localTime(element) {
  const instant = new Date(element.dateTime);
  if (Number.isNaN(instant.getTime())) return;
  element.title = element.dateTime;
  element.textContent = moment.format(instant);
}

document.querySelectorAll("time").forEach(localTime);

document.addEventListener("click", async (event) => {
  const digest = event.target.closest("code.digest");
  if (!digest || !navigator.clipboard) return;
  try {
    await navigator.clipboard.writeText(digest.title);
  } catch {
    return;
  }
  digest.classList.add("copied");
  setTimeout(() => digest.classList.remove("copied"), 900);
});
