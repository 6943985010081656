"use strict";
// On every page: times in the reader's own zone, digests that copy themselves.

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
