// Small comforts. Every page works without them.
"use strict";

// Local times in the titles, beside the UTC.
for (const time of document.querySelectorAll("time[datetime]")) {
  const local = new Date(time.dateTime);
  if (!Number.isNaN(local.getTime())) time.title = `${local.toLocaleString()} (${time.title})`;
}

// Copies the text; says so in a status line or in the button.
async function copy(text, button, status) {
  let words = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    words = "Cannot copy: select the text instead";
  }
  if (status) status.textContent = words;
  else {
    const before = button.textContent;
    button.textContent = words;
    setTimeout(() => { button.textContent = before; }, 2000);
  }
}

for (const block of document.querySelectorAll(".copyable")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = "Copy";
  button.addEventListener("click", () => copy(block.querySelector("code").textContent, button));
  block.append(button);
}

// The secret of a new key: in a dialog that is not closed by accident, and gone afterwards.
const reveal = document.getElementById("reveal");
if (reveal) {
  const leave = reveal.dataset.leave;
  // A reload asks for the key, not for another answer to the form.
  history.replaceState(null, "", leave);
  const dialog = document.createElement("dialog");
  dialog.className = reveal.className;
  dialog.setAttribute("aria-labelledby", "reveal-title");
  dialog.append(...reveal.childNodes);
  reveal.replaceWith(dialog);
  const secret = dialog.querySelector("#secret");
  const stored = dialog.querySelector("#stored");
  const done = dialog.querySelector("#done");
  const status = dialog.querySelector("#copied");
  let isStored = false;
  dialog.querySelector("#secret-actions").hidden = false;
  dialog.querySelector("#stored-label").hidden = false;
  done.setAttribute("aria-disabled", "true");
  dialog.querySelector("[data-copy]").addEventListener("click", (event) => copy(secret.textContent, event.target, status));
  dialog.querySelector("[data-download]").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${secret.textContent}\n`], { type: "text/plain" }));
    link.download = "api-key.txt";
    link.click();
    URL.revokeObjectURL(link.href);
    status.textContent = "Downloaded";
  });
  const warn = (event) => { if (!isStored) event.preventDefault(); };
  addEventListener("beforeunload", warn);
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.addEventListener("keydown", (event) => { if (event.key === "Escape") event.preventDefault(); });
  stored.addEventListener("change", () => {
    isStored = stored.checked;
    done.setAttribute("aria-disabled", String(!isStored));
  });
  const forget = () => { secret.textContent = ""; };
  done.addEventListener("click", (event) => {
    event.preventDefault();
    if (!isStored) {
      status.textContent = "Tick the box once the secret is stored.";
      stored.focus();
      return;
    }
    forget();
    removeEventListener("beforeunload", warn);
    location.replace(leave);
  });
  // Whatever way the page is left, a restored copy of it has no secret.
  addEventListener("pagehide", forget);
  dialog.showModal();
}
