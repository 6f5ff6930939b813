// Makes pages live and quick. Every page works without it.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);

  // Times -----------------------------------------------------------------------------------------------------------

  const span = (ms) => {
    const s = Math.floor(ms / 1000);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  };
  const distance = (ms) => {
    const s = Math.round(Math.abs(ms) / 1000);
    let text;
    if (s < 60) text = `${s} s`;
    else if (s < 3600) text = `${Math.round(s / 60)} min`;
    else if (s < 172800) text = `${Math.round(s / 3600)} h`;
    else text = `${Math.round(s / 86400)} d`;
    return ms > 0 ? `in ${text}` : s < 2 ? "now" : `${text} ago`;
  };
  const tick = () => {
    const now = Date.now();
    for (const time of document.querySelectorAll("time[data-relative]")) {
      const at = Date.parse(time.dateTime);
      if (Number.isNaN(at)) continue;
      if (!time.title) time.title = time.textContent;
      const text = distance(at - now);
      if (time.textContent !== text) time.textContent = text;
    }
    for (const part of document.querySelectorAll("[data-since]")) {
      const text = span(Math.max(0, now - Date.parse(part.dataset.since)));
      if (part.textContent !== text) part.textContent = text;
    }
  };
  tick();
  setInterval(tick, 1000);

  // Regions -----------------------------------------------------------------------------------------------------------

  // Swaps a part of the page for what the server rendered, and keeps what the person had done to it.
  const swap = (name, html) => {
    const region = document.querySelector(`[data-region="${CSS.escape(name)}"]`);
    if (!region) return;
    const scrolls = new Map();
    const opened = new Map();
    for (const part of region.querySelectorAll("[id]")) {
      if (part.scrollTop || part.scrollLeft) scrolls.set(part.id, [part.scrollLeft, part.scrollTop]);
      if (part.tagName === "DETAILS") opened.set(part.id, part.open);
    }
    const focused = region.contains(document.activeElement) ? document.activeElement : null;
    const again = focused && (focused.id ? `#${CSS.escape(focused.id)}`
      : focused.getAttribute("href") ? `[href="${CSS.escape(focused.getAttribute("href"))}"]` : null);
    region.innerHTML = html;
    for (const [id, [left, top]] of scrolls) $(id)?.scrollTo(left, top);
    for (const [id, open] of opened) if ($(id)) $(id).open = open;
    if (again) region.querySelector(again)?.focus({ preventScroll: true });
    tick();
    fit();
  };

  // Live --------------------------------------------------------------------------------------------------------------

  const sign = $("live-sign");
  const lost = $("lost");
  const say = (state, word) => {
    sign.hidden = false;
    sign.dataset.state = state;
    $("live-word").textContent = word;
  };
  const trouble = (words) => {
    lost.hidden = !words;
    if (words) $("lost-word").textContent = words;
  };

  const log = $("log");
  const MOST_LINES = 5000;
  const follows = () => !$("follow") || $("follow").checked;
  const toEnd = () => { if (log) log.scrollTop = log.scrollHeight; };

  const handle = (event) => {
    const data = JSON.parse(event.data);
    const regions = event.type === "task" ? data.regions : data;
    for (const [name, html] of Object.entries(regions)) swap(name, html);
    if (event.type === "task" && data.log && log) {
      log.insertAdjacentHTML("beforeend", data.log);
      while (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
      $("no-lines")?.remove();
      $("more-lines")?.remove();
      if (follows()) toEnd();
    }
    say("on", "live");
    trouble("");
  };

  let source = null;
  let wait = 1000;
  let reconnect = 0;
  const address = log?.dataset.log || document.body.dataset.live;
  let place = "";
  const connect = () => {
    clearTimeout(reconnect);
    if (!address || source) return;
    const url = new URL(address, location.href);
    // A new stream goes on where the last one stopped.
    if (place) url.searchParams.set("after", place);
    source = new EventSource(url);
    const each = (event) => {
      if (event.lastEventId) place = event.lastEventId;
      handle(event);
    };
    source.addEventListener("changed", each);
    source.addEventListener("task", each);
    source.addEventListener("trouble", (event) => {
      say("off", "paused");
      trouble(`Live updates paused: ${event.data}. Trying again …`);
    });
    source.addEventListener("alive", () => { if (lost.hidden) say("on", "live"); });
    source.onopen = () => { wait = 1000; say("on", "live"); trouble(""); };
    source.onerror = () => {
      // We reconnect ourselves: a browser gives up after an answer that is no stream, such as 503.
      source.close();
      source = null;
      say("off", "paused");
      trouble("Live updates paused, reconnecting …");
      reconnect = setTimeout(connect, wait);
      wait = Math.min(wait * 2, 15000);
    };
  };
  const disconnect = () => {
    clearTimeout(reconnect);
    source?.close();
    source = null;
  };
  connect();
  // A hidden tab gives its connection back: browsers allow six to one server.
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", connect);

  if (log) {
    document.querySelector(".follow").hidden = false;
    toEnd();
    log.addEventListener("scroll", () => {
      const box = $("follow");
      box.checked = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
    }, { passive: true });
    $("follow").addEventListener("change", () => { if (follows()) toEnd(); });
  }

  // Graph -------------------------------------------------------------------------------------------------------------

  const fitted = () => $("fit")?.getAttribute("aria-pressed") === "true";
  function fit() {
    for (const graph of document.querySelectorAll(".graph")) graph.classList.toggle("fitted", fitted());
  }
  if ($("fit")) {
    $("fit").hidden = false;
    $("fit").addEventListener("click", () => {
      $("fit").setAttribute("aria-pressed", String(!fitted()));
      fit();
    });
  }

  // Buttons -----------------------------------------------------------------------------------------------------------

  const ask = $("confirm");
  let asking = null;
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.confirm && form !== asking) {
      event.preventDefault();
      $("confirm-text").textContent = form.dataset.confirm;
      ask.returnValue = "no";
      asking = form;
      ask.showModal();
      return;
    }
    // A second click must not post twice.
    for (const button of form.querySelectorAll("button")) setTimeout(() => { button.disabled = true; });
    setTimeout(() => { for (const button of form.querySelectorAll("button")) button.disabled = false; }, 4000);
  });
  ask.addEventListener("close", () => {
    const form = asking;
    if (form && ask.returnValue === "yes") form.requestSubmit();
    asking = null;
  });

  const theme = $("theme");
  theme.hidden = false;
  const turn = () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("pinwheel-theme", root.dataset.theme); } catch { /* It holds for this page only. */ }
  };
  theme.addEventListener("click", turn);
  const help = $("help");
  help.hidden = false;
  help.addEventListener("click", () => $("keys").showModal());

  // What an action did is said once: a reload must not say it again.
  if ($("note")) {
    const url = new URL(location.href);
    url.searchParams.delete("done");
    history.replaceState(null, "", url);
    setTimeout(() => $("note")?.classList.add("gone"), 6000);
  }

  // Keyboard ----------------------------------------------------------------------------------------------------------

  let went = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const target = event.target;
    if (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) {
      if (event.key === "Escape") target.blur();
      return;
    }
    if (event.timeStamp - went < 1200) {
      went = 0;
      const to = { h: "/", d: "/dags", r: "/runs", p: "/pools", s: "/streams", w: "/workers", c: "/connections", v: "/variables" }[event.key];
      if (to) { event.preventDefault(); location.href = to; return; }
    }
    if (event.key === "/") {
      event.preventDefault();
      ($("filter") || $("search")).focus();
    } else if (event.key === "g") went = event.timeStamp;
    else if (event.key === "?") $("keys").showModal();
    else if (event.key === "t") turn();
  });
})();
