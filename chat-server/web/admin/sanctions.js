// The dialog for a kick, a ban or an unban.

import { byId, focusOn, placeOf } from "./elements.js";

/** Ends the question without an answer: it is about a view that is not shown any longer. */
export function closeSanction() {
  byId("sanction").close();
}

/** Asks whether it shall be, and for the reason and the time. Returns the fields of the call; nothing if the operator cancels. */
export function askForSanction({ title, action, note = "", timed = true, reasoned = true }) {
  const [dialog, form, time, reason] = ["sanction", "sanction-form", "sanction-time", "sanction-reason"].map(byId);
  byId("sanction-title").replaceChildren(...title);
  byId("sanction-note").textContent = note;
  byId("sanction-note").hidden = note === "";
  form.querySelector("[type=submit]").textContent = action;
  for (const [part, isAsked] of [[time, timed], [reason, reasoned]]) {
    for (const element of [part, form.querySelector(`[for=${part.id}]`)]) element.hidden = !isAsked;
  }
  reason.value = "";
  dialog.returnValue = "";
  const asked = document.activeElement;
  dialog.showModal();
  return new Promise((resolve) => {
    const ended = new AbortController();
    const { signal } = ended;
    form.addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        dialog.close("confirmed");
      },
      { signal },
    );
    byId("sanction-cancel").addEventListener("click", () => dialog.close(), { signal });
    dialog.addEventListener(
      "close",
      () => {
        ended.abort();
        // The list around the button may have been replaced; then the dialog has not given the focus back.
        if (!asked.isConnected) focusOn(placeOf(asked), byId("view"));
        if (dialog.returnValue !== "confirmed") return resolve(undefined);
        const given = { reason: reason.value.trim() || undefined };
        // A ban without a time lasts until it is ended.
        resolve(timed && time.value !== "" ? { ...given, seconds: Number(time.value) } : given);
      },
      { signal },
    );
  });
}
