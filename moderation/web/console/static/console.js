// Keys, the picture (blur, zoom, lens), countdowns. Every page works without it; nothing here decides anything.
"use strict";

(() => {
  const page = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (selector, within = document) => within.querySelector(selector);
  const csrf = () => JSON.parse(document.body.getAttribute("hx-headers") || "{}");
  const post = (url, fields) =>
    fetch(url, {
      method: "POST",
      headers: { ...csrf(), "X-Requested-With": "fetch" },
      body: new URLSearchParams(fields),
      keepalive: true,
    }).then((reply) => signedOut(reply.status === 401), () => {});

  // The session has ended, or was begun anew in another tab: what is filled in here stays and can be sent then.
  function signedOut(is) {
    const notice = one("[data-signed-out]");
    if (notice) notice.hidden = !is;
  }

  // --- keys: every control carries its own in data-key, printed beside it

  const types = (element) =>
    element.closest("textarea, select, [contenteditable]") ||
    (element.matches("input") && !["checkbox", "radio", "submit", "button"].includes(element.type));
  const acts = (element) => element.closest("button, a[href], summary, label, input, select, textarea");

  // A letter acts once nothing followed it for so long: what comes faster is somebody who types. Milliseconds.
  const ALONE = 250;
  // After such typing keys act again once nothing was pressed for so long.
  const REST = 1000;
  // The first keys of words are no decision: these are letters that wait, at most two of them.
  let waiting = [];
  let timer = 0;
  // Why keys are at rest. "typing" ends by itself; "question" by Enter, Escape, Tab or a click.
  let rests = null;
  // The keyboard writes another script: what is not one of its letters is known by its place alone.
  let foreign = false;

  // What was pressed, whatever Caps Lock, the width of characters and the script of the layout.
  function keyOf(event) {
    const typed = event.key.normalize("NFKC");
    const place = /^(?:Key([A-Z])|Digit([0-9]))$/.exec(event.code);
    const letter = /^\p{L}$/u.test(typed);
    if (letter) foreign = !/\p{Script=Latin}/u.test(typed);
    if (place && ((letter && !/^[a-z]$/i.test(typed)) || ["Process", "Unidentified"].includes(typed))) {
      return (place[1] ?? place[2]).toLowerCase();
    }
    if (foreign && event.code === "Slash" && !event.shiftKey) return "/";
    return typed.length === 1 ? typed.toLowerCase() : typed;
  }

  function controlOf(key) {
    const open = one("dialog[open]");
    const wanted = (element) => element.dataset.key === key && !element.disabled && element.getClientRects().length;
    const hiddenRadio = (element) => element.dataset.key === key && element.type === "radio" && !element.disabled;
    return all("[data-key]", open || document).find((element) => wanted(element) || hiddenRadio(element));
  }

  // What a key does here. Nothing: it is no key of this page.
  function deedOf(key) {
    const cell = key === "x" && document.activeElement.closest("[data-row]")?.querySelector("[data-select], [data-unchoosable]");
    if (cell) return () => (cell.dataset.unchoosable ? say(cell.dataset.unchoosable) : cell.click());
    if (chosen && "ads".includes(key)) return () => answer(key);
    const control = controlOf(key === "=" ? "+" : key);
    return control && (() => use(control));
  }

  const isField = (control) => control.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");

  function use(control) {
    if (isField(control)) control.focus();
    else control.click();
  }

  function say(sentence) {
    const place = one("[data-says]");
    if (!place) return;
    place.textContent = sentence;
    place.hidden = false;
    clearTimeout(place.dataset.ends);
    place.dataset.ends = setTimeout(() => (place.hidden = true), 8000);
  }

  function rest(why, sentence) {
    clearTimeout(timer);
    waiting = [];
    if (rests === null) say(sentence);
    rests = why;
    if (why === "typing") timer = setTimeout(wake, REST);
  }

  function wake() {
    clearTimeout(timer);
    rests = null;
  }

  // The letters that wait act now, in the order in which they were pressed.
  function settle() {
    clearTimeout(timer);
    const pressed = waiting;
    waiting = [];
    pressed.forEach((key) => deedOf(key)?.());
  }

  const TYPING = "That looked like typing: no key acted, and nothing was decided. Keys act again in a second.";

  function pressLetter(event, key) {
    event.preventDefault();
    if (event.repeat) return;
    // With Shift, or where it does nothing, a letter is one of a word.
    if (event.shiftKey || !deedOf(key) || waiting.length === 2) {
      return rest("typing", waiting.length ? TYPING : `“${key}” is no key here now. Keys act again in a second.`);
    }
    clearTimeout(timer);
    timer = setTimeout(settle, ALONE);
    // A field takes the focus at once: that decides nothing, and what is typed next belongs into it.
    const control = controlOf(key);
    if (control && isField(control)) use(control);
    else waiting.push(key);
  }

  // Letters may still wait when a field has taken the focus. What is typed into it at once shows that they began a word.
  function typeOn(key) {
    if (!waiting.length) return;
    if (key.length === 1) rest("typing", `That looked like typing: “${waiting.join("")}” did not act, and nothing was decided.`);
    else if (key === "Enter" || key === "Tab") settle();
  }

  // While keys rest they are swallowed, with what would send a form. Whatever leads elsewhere ends the rest.
  function swallow(event, key) {
    if (key === "Tab" || key.startsWith("Arrow")) {
      wake();
      return false;
    }
    if (key.length !== 1 && key !== "Enter") return false;
    event.preventDefault();
    if (rests === "typing") rest("typing", "");
    else if (key === "Enter") {
      wake();
      say("Nothing was asked, and nothing was decided.");
    }
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const key = keyOf(event);
    const typing = types(event.target);
    if (key === "Escape") {
      settle();
      wake();
      if (typing) event.target.blur();
      else controlOf("Escape")?.click();
      return;
    }
    if (typing) return typeOn(key);
    if (page.dataset.keys === "off") return;
    if (rests !== null && swallow(event, key)) return;
    if (/^\p{L}$/u.test(key)) return pressLetter(event, key);
    // A blank, or Enter, right after two letters ends a word.
    if (waiting.length && (key === " " || (key === "Enter" && waiting.length > 1))) {
      event.preventDefault();
      return rest("typing", TYPING);
    }
    settle();
    if (key === " ") return holdToReveal(event);
    if (key === "Enter") {
      if (acts(event.target) && !event.target.matches("input[type=radio]")) return;
    } else if (key.startsWith("Arrow")) {
      return moveInQueue(event);
    }
    if (event.repeat && !"+-".includes(key)) return;
    const deed = deedOf(key);
    if (deed) {
      event.preventDefault();
      // What is typed on while another page comes is for that page.
      if (key === "/" && controlOf(key)?.matches("a")) rest("question", "");
      deed();
    } else if (key === "/") {
      // Else a browser may open a search of its own, or the words that follow be taken for keys.
      event.preventDefault();
      const why = one("[data-no-question]")?.dataset.noQuestion ?? "There is nothing to type into on this page.";
      rest("question", `${why} Keys are silent until you press Esc.`);
    }
  });
  document.addEventListener("pointerdown", () => {
    settle();
    wake();
  }, { capture: true });
  document.addEventListener("focusin", (event) => rests !== null && types(event.target) && wake());

  // Ctrl+Enter sends the form one is typing in.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !event.target.form) return;
    settle();
    event.target.form.requestSubmit();
  });

  all("[data-opens]").forEach((button) => {
    button.addEventListener("click", () => document.getElementById(button.dataset.opens).showModal());
  });

  // --- the picture

  const picture = one("[data-picture]");
  const stage = picture && one("[data-stage]", picture);
  const plane = picture && one("[data-plane]", picture);
  const image = picture && one("[data-image]", picture);
  let zoom = null; // screen pixels per picture pixel; null: fitted into the stage
  let chosen = null; // the artifact under the lens
  let held = false;
  let revealed = false;

  const seen = (kind) => post(picture.dataset.seen, { kind });

  function reveal(on) {
    if (!stage) return;
    const button = one("[data-reveal]");
    const covered = one('[data-toggle="blurred"]').getAttribute("aria-pressed") === "true";
    if (on && stage.classList.contains("blurred")) seen("revealed");
    stage.classList.toggle("blurred", covered && !on);
    button.setAttribute("aria-pressed", String(!covered || on));
  }

  function holdToReveal(event) {
    if (!stage || acts(event.target)) return;
    event.preventDefault();
    if (held || event.repeat) return;
    held = true;
    reveal(true);
  }

  const letGo = () => {
    if (!held) return;
    held = false;
    reveal(revealed);
  };
  document.addEventListener("keyup", (event) => event.key === " " && letGo());
  window.addEventListener("blur", letGo);

  if (picture) {
    one("[data-reveal-form]").addEventListener("submit", (event) => {
      event.preventDefault();
      revealed = !revealed;
      reveal(revealed);
    });
    all("[data-toggle]", picture).forEach((button) => {
      button.addEventListener("click", () => {
        const name = button.dataset.toggle;
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        stage.classList.toggle(name, "inverse" in button.dataset ? !on : on);
        if (name === "blurred") {
          revealed = false;
          if (!on) seen("revealed");
          one("[data-reveal]").setAttribute("aria-pressed", String(!on));
        }
        if (name === "blurred" || name === "grey") post("/preferences/picture", { [name === "blurred" ? "blur" : "greyscale"]: on ? "on" : "" });
        drawLens();
      });
    });
    all("[data-zoom]", picture).forEach((button) => button.addEventListener("click", () => zoomBy(button.dataset.zoom)));
    image.addEventListener("error", broken);
    image.addEventListener("load", drawLens);
    if (image.complete && !image.naturalWidth) broken();
    dragToMove();
  }

  function broken() {
    one("[data-broken]").hidden = false;
    plane.hidden = true;
    stage.classList.remove("blurred");
    all("[data-unseen]").forEach((field) => (field.value = "yes"));
  }

  const STEPS = [0.5, 1, 2, 3, 4, 6, 8];

  function zoomBy(how) {
    if (!image.naturalWidth) return;
    const fitted = Math.min(stage.clientWidth / image.naturalWidth, stage.clientHeight / image.naturalHeight);
    const now = zoom ?? fitted;
    if (how === "fit") zoomTo(null);
    else if (how === "in") zoomTo(STEPS.find((step) => step > now + 0.01) ?? STEPS.at(-1));
    else {
      const next = STEPS.findLast((step) => step < now - 0.01);
      zoomTo(next && next > fitted ? next : null);
    }
  }

  function zoomTo(scale) {
    const centre = { x: (stage.scrollLeft + stage.clientWidth / 2) / plane.clientWidth, y: (stage.scrollTop + stage.clientHeight / 2) / plane.clientHeight };
    zoom = scale;
    stage.classList.toggle("zoomed", scale !== null);
    plane.style.width = scale === null ? "" : `${image.naturalWidth * scale}px`;
    plane.style.height = scale === null ? "" : `${image.naturalHeight * scale}px`;
    stage.scrollLeft = centre.x * plane.clientWidth - stage.clientWidth / 2;
    stage.scrollTop = centre.y * plane.clientHeight - stage.clientHeight / 2;
    one("[data-zoom-says]").textContent = scale === null ? "fit" : `${Math.round(scale * 100)} %`;
    if (chosen) centreOn(cropOf(chosen));
  }

  function centreOn(crop) {
    if (zoom === null || !crop) return;
    stage.scrollLeft = (crop.x + crop.width / 2) * zoom - stage.clientWidth / 2;
    stage.scrollTop = (crop.y + crop.height / 2) * zoom - stage.clientHeight / 2;
  }

  function dragToMove() {
    let from = null;
    stage.addEventListener("pointerdown", (event) => {
      if (zoom === null || event.button !== 0) return;
      from = { x: event.clientX + stage.scrollLeft, y: event.clientY + stage.scrollTop };
      stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      if (!from) return;
      stage.scrollLeft = from.x - event.clientX;
      stage.scrollTop = from.y - event.clientY;
    });
    ["pointerup", "pointercancel"].forEach((name) => stage.addEventListener(name, () => (from = null)));
  }

  // --- the lens: one artifact at whole multiples of the picture's own pixels

  const lens = picture && one("[data-lens]", picture);

  function cropOf(item) {
    if (!item.dataset.crop) return null;
    // Told in pixels of the file. What is shown may be a smaller copy of it.
    const whole = one("svg[viewBox]", stage)?.viewBox.baseVal.width;
    const share = whole && image.naturalWidth ? image.naturalWidth / whole : 1;
    const [x, y, width, height] = item.dataset.crop.split(" ").map((pixels) => Number(pixels) * share);
    return { x, y, width, height };
  }

  function choose(number) {
    const item = one(`[data-artifact="${number}"]`);
    chosen = chosen === item ? null : item;
    all("[data-artifact]").forEach((other) => other.classList.toggle("chosen", other === chosen));
    all("[data-mark]").forEach((mark) => mark.classList.toggle("chosen", chosen !== null && mark.dataset.mark === number));
    lens.hidden = chosen === null;
    if (!chosen) return;
    chosen.scrollIntoView({ block: "nearest" });
    seen("artifact");
    drawLens();
    centreOn(cropOf(chosen));
  }

  function drawLens() {
    if (!chosen) return;
    one("[data-lens-title]").textContent = `${chosen.dataset.artifact}. ${one("[data-heading]", chosen).textContent}`;
    one("[data-lens-text]").textContent = one("[data-said]", chosen).textContent;
    if (!image.naturalWidth) return;
    const canvas = one("[data-lens-canvas]");
    const crop = cropOf(chosen) || { x: 0, y: 0, width: image.naturalWidth, height: image.naturalHeight };
    const room = { width: Math.min(380, picture.clientWidth - 24), height: 190 };
    const most = Math.min(room.width / crop.width, room.height / crop.height);
    const scale = most >= 2 ? Math.min(4, Math.floor(most)) : most >= 1 ? 1 : most;
    canvas.width = Math.round(crop.width * scale);
    canvas.height = Math.round(crop.height * scale);
    canvas.classList.toggle("grey", stage.classList.contains("grey"));
    canvas.setAttribute("aria-label", `Artifact ${chosen.dataset.artifact}, enlarged`);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = scale < 1;
    pen.drawImage(image, crop.x, crop.y, crop.width, crop.height, 0, 0, canvas.width, canvas.height);
    one("[data-lens-scale]").textContent = scale < 1 ? `${Math.round(scale * 100)} % of its pixels` : `${scale} × its own pixels`;
  }

  function answer(key) {
    const value = { a: "agree", d: "disagree", s: "unclear" }[key];
    const radio = one(`input[value="${value}"]`, chosen);
    radio?.click();
    return radio;
  }

  all("[data-jump]").forEach((button) => button.addEventListener("click", () => choose(button.dataset.jump)));
  one("[data-lens-close]")?.addEventListener("click", () => choose(chosen.dataset.artifact));

  // --- forms

  // A technique is asked for only where the outcome is a deepfake.
  function matchTechnique(form) {
    const field = one("[data-needs]", form);
    if (!field) return;
    const outcome = one('input[name="outcome"]:checked', form)?.value;
    field.hidden = outcome !== field.dataset.needs;
    one("select", field).disabled = field.hidden;
  }
  all("form").filter((form) => one("[data-needs]", form)).forEach((form) => {
    matchTechnique(form);
    form.addEventListener("change", () => matchTechnique(form));
  });

  // A form is sent once, however often Enter is pressed.
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.hasAttribute("hx-post") || event.target.method === "dialog") return;
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "yes";
  });
  window.addEventListener("pageshow", () => all("form[data-sent]").forEach((form) => delete form.dataset.sent));

  document.addEventListener("htmx:afterRequest", (event) => {
    const out = event.detail.xhr?.getResponseHeader("HX-Trigger") === "bonafide:signed-out";
    signedOut(out);
    if (event.target.matches?.("[data-clears]") && event.detail.successful && !out) one("input[type=text]", event.target).value = "";
  });

  // What is filled in is kept on the server until it is sent. Milliseconds after the last key.
  const KEEP = 1200;
  const unkept = new Map();

  function keep(form) {
    clearTimeout(unkept.get(form));
    unkept.delete(form);
    post(new URL("draft", form.action), [...new FormData(form), ["form", form.dataset.draft]]);
  }
  ["input", "change"].forEach((name) =>
    document.addEventListener(name, (event) => {
      const form = event.target.form;
      if (!form?.dataset.draft) return;
      clearTimeout(unkept.get(form));
      unkept.set(form, setTimeout(() => keep(form), KEEP));
    }),
  );
  document.addEventListener("submit", (event) => {
    clearTimeout(unkept.get(event.target));
    unkept.delete(event.target);
  }, { capture: true });
  const keepAll = () => [...unkept.keys()].forEach(keep);
  window.addEventListener("pagehide", keepAll);
  document.addEventListener("visibilitychange", () => document.hidden && keepAll());

  // What is too long is refused before it is sent, and nothing is cut off.
  function measure(field) {
    const over = [...field.value.replace(/^[ \t\n]+|[ \t\n]+$/g, "")].length - Number(field.dataset.atMost);
    const said = over > 0 ? `${over} ${over === 1 ? "character" : "characters"} too many: at most ${field.dataset.atMost} are kept.` : "";
    field.setCustomValidity(said);
    const hint = field.nextElementSibling?.matches("[data-too-long]") ? field.nextElementSibling : null;
    if (!said) return hint?.remove();
    const shown = hint ?? document.createElement("span");
    shown.className = "hint none";
    shown.dataset.tooLong = "";
    shown.setAttribute("role", "status");
    shown.textContent = said;
    if (!hint) field.after(shown);
  }
  document.addEventListener("input", (event) => event.target.dataset.atMost && measure(event.target));
  all("[data-at-most]").forEach(measure);
  document.addEventListener("htmx:afterSwap", () => {
    const turns = one(".turns");
    if (turns) turns.scrollTop = turns.scrollHeight;
  });

  // --- the queue

  function moveInQueue(event) {
    const rows = all("[data-row]");
    if (!rows.length || (event.key !== "ArrowDown" && event.key !== "ArrowUp")) return;
    event.preventDefault();
    const now = rows.findIndex((row) => row.contains(document.activeElement));
    const next = event.key === "ArrowDown" ? Math.min(now + 1, rows.length - 1) : Math.max(now - 1, 0);
    one("a", rows[next]).focus();
  }

  const boxes = all("[data-select]");
  function countSelected() {
    const bar = one("[data-bulk]");
    if (!bar) return;
    const number = boxes.filter((box) => box.checked).length;
    one("[data-selected]", bar).textContent = number === 1 ? "1 case" : `${number} cases`;
    one("button", bar).disabled = number === 0;
  }
  boxes.forEach((box) => box.addEventListener("change", countSelected));
  one("[data-select-all]")?.addEventListener("change", (event) => {
    boxes.forEach((box) => (box.checked = event.target.checked));
    countSelected();
  });
  countSelected();
  // --- clocks

  const left = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")} left`;
  function tick() {
    all("[data-countdown]").forEach((element) => {
      const seconds = (Date.parse(element.dataset.countdown) - Date.now()) / 1000;
      if (seconds > 0) element.textContent = ` ${left(seconds)}`;
      else if (element.closest("[data-toast]")) element.closest("[data-toast]").remove();
      else element.textContent = " has ended";
    });
  }
  tick();
  setInterval(tick, 1000);

  // A claim is renewed while somebody works on the case, not while the page lies open.
  let worked = 0;
  let renewed = Date.now();
  ["keydown", "pointermove", "scroll"].forEach((name) =>
    document.addEventListener(name, () => (worked = Date.now()), { passive: true, capture: true }),
  );
  setInterval(() => {
    const claim = one("[data-renew]");
    if (!claim || document.hidden || worked < renewed || Date.now() - renewed < 30_000) return;
    renewed = Date.now();
    claim.dispatchEvent(new CustomEvent("bonafide:active"));
  }, 5_000);
})();
