// The views by the address after #, the key, and what is shown while a view loads or fails.

import { key, ServiceError } from "./api.js";
import { announce, el } from "./dom.js";
import { showAttempt } from "./attempt.js";
import { showLive } from "./live.js";
import { showPlay } from "./play.js";
import { showPolicies } from "./policies.js";
import { showPolicy } from "./policy.js";
import { showVariant } from "./variant.js";

const main = document.getElementById("main");
const dialog = document.getElementById("key-dialog");
let leaving = new AbortController();

/** The view of an address, with its parameters: `#/live`, `#/policies/NAME[/variants/NAME, /try or /play]`. */
export function viewOf(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const parameters = new URLSearchParams(query ?? "");
  if (parts.length === 0) return { name: "policies", show: showPolicies, parts, parameters };
  if (parts.length === 1 && parts[0] === "live") return { name: "live", show: showLive, parts, parameters };
  const [, policy, verb, variant] = parts[0] === "policies" ? parts : [];
  const found = { parts: [policy, variant], parameters };
  if (policy !== undefined && verb === undefined) return { name: "policy", show: showPolicy, ...found };
  if (verb === "variants" && variant !== undefined) return { name: "variant", show: showVariant, ...found };
  if (verb === "try") return { name: "try", show: showAttempt, ...found };
  if (verb === "play") return { name: "play", show: showPlay, ...found };
  return null;
}

function mark(name) {
  const shown = name === "live" ? "live" : "policies";
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function problem(error) {
  const code = error instanceof ServiceError && error.problem.code ? ` (${error.problem.code})` : "";
  const retry = el("button", { type: "button", onclick: () => navigate() }, "Try again");
  return el(
    "section",
    { class: "panel" },
    el("h1", {}, "This did not work"),
    el("p", { class: "problem", role: "alert" }, `${error.message}${code}`),
    el("div", { class: "actions" }, retry, el("a", { class: "button", href: "#/" }, "All policies")),
  );
}

/** Shows the view of the address; `moved` is false for the first one, which keeps the focus. */
async function navigate(moved = true) {
  leaving.abort();
  const here = (leaving = new AbortController());
  let view = null;
  try {
    view = viewOf(location.hash);
  } catch {
    // A name that is not encoded as in addresses; said below.
  }
  mark(view?.name);
  const slow = setTimeout(() => main.replaceChildren(el("p", { class: "quiet" }, "Loading …")), 150);
  try {
    if (view === null) throw new Error(`There is no view ${location.hash}`);
    const { title, nodes } = await view.show({ parts: view.parts, parameters: view.parameters, signal: here.signal });
    if (here.signal.aborted) return;
    main.replaceChildren(...nodes.filter((node) => node !== null));
    document.title = title ? `${title} – slimq` : "slimq";
    announce(document.title);
  } catch (error) {
    if (here.signal.aborted) return;
    if (error instanceof ServiceError && error.status === 401) askForKey(error);
    main.replaceChildren(problem(error));
    document.title = "slimq";
  } finally {
    clearTimeout(slow);
  }
  if (moved) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  showForget();
}

function askForKey(error) {
  const had = key.get() !== null;
  key.forget();
  document.getElementById("key-problem").textContent = had ? error.message : "";
  if (!dialog.open) dialog.showModal();
}

function showForget() {
  document.getElementById("forget").hidden = key.get() === null;
}

document.getElementById("key-form").addEventListener("submit", () => {
  const field = document.getElementById("key");
  key.set(field.value.trim());
  field.value = "";
  navigate();
});
document.getElementById("forget").addEventListener("click", () => {
  key.forget();
  navigate();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => navigate());
navigate(false);
