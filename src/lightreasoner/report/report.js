// The token browser.
(async () => {
  const PER_PAGE = 10;
  const KEPT = 1, AGREES = 2, DISAGREES = 4;
  const CLASSES = [100, 200, 400, 800, 1200, 1600, 2000, 3000];  // milli-nats; as in charts.py
  const root = document.getElementById("browser-root");
  if (!root) return;
  const status = find("count"), list = find("rollouts"), card = find("card");

  if (!("DecompressionStream" in window)) {
    status.textContent = "This browser cannot unpack the rollouts; one from 2023 or later can.";
    return;
  }
  const facts = await unpack("browser");
  const { index, details } = await blocks("index", "block", facts.blocks);
  const texts = new Map(facts.ids.map((id, place) => [id, facts.texts[place]]));
  const control = new Set(facts.control);
  for (const entry of index) {
    const known = entry.k.filter((kl) => kl !== null);
    entry.max = known.length ? Math.max(...known) : -1;
    entry.mean = known.length ? known.reduce((sum, kl) => sum + kl, 0) / known.length : -1;
    entry.kept = [...entry.f].filter((flag) => flag & KEPT).length;
    entry.lower = entry.q.toLowerCase();
  }

  // --- filters and pages ---

  let order = [], page = 0, focused = null, drawing = 0;
  const filter = { text: "", kept: false, agreement: "any", low: null, high: null, sort: "sampled" };

  function isActive() {
    return filter.kept || filter.agreement !== "any" || filter.low !== null || filter.high !== null;
  }
  function matches(entry, step) {
    const flag = +entry.f[step], kl = entry.k[step];
    if (filter.kept && !(flag & KEPT)) return false;
    if (filter.agreement === "agree" && !(flag & AGREES)) return false;
    if (filter.agreement === "differ" && !(flag & DISAGREES)) return false;
    if (filter.low !== null && (kl === null || kl < filter.low)) return false;
    return filter.high === null || (kl !== null && kl <= filter.high);
  }
  function apply() {
    let tokens = 0;
    const active = isActive();
    order = [];
    index.forEach((entry, number) => {
      if (filter.text && !entry.lower.includes(filter.text)) return;
      let mine = entry.f.length;
      if (active) {
        mine = 0;
        for (let step = 0; step < entry.f.length; step++) mine += matches(entry, step);
      }
      if (!mine && active) return;
      tokens += mine;
      order.push(number);
    });
    const key = { max: (entry) => -entry.max, mean: (entry) => -entry.mean, kept: (entry) => -entry.kept }[filter.sort];
    if (key) order.sort((one, other) => key(index[one]) - key(index[other]) || one - other);
    status.textContent = `${counted(tokens, "token")} in ${counted(order.length, "rollout")}`;
    page = 0;
    return draw();
  }

  const nats = (milli) => milli === null || milli === undefined ? "–" : (milli / 1000).toFixed(3);
  const percent = (share) => share === null || share === undefined ? "–" : share === 0 ? "<0.01 %" : `${(share / 100).toFixed(2)} %`;
  const level = (kl) => kl === null ? 0 : CLASSES.filter((end) => kl >= end).length;
  const textOf = (id) => texts.has(id) ? texts.get(id) : `⟨${id}⟩`;

  async function draw() {
    const mine = ++drawing;
    const pages = Math.max(1, Math.ceil(order.length / PER_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const numbers = order.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    const rollouts = await Promise.all(numbers.map(details));
    if (mine !== drawing) return false;  // a newer call has started
    list.replaceChildren(...numbers.map((number, place) => article(number, rollouts[place])));
    if (!numbers.length) list.append(element("p", "note", "Nothing matches. Widen the KL range or clear the search."));
    setPager(find("back"), find("on"), find("page"), page, pages);
    root.dataset.ready = "yes";
    return true;
  }

  function article(number, rollout) {
    const entry = index[number], made = element("article", "rollout");
    made.id = `rollout-${number}`;
    const head = element("h3"), link = element("a", "", `Rollout ${number}`);
    link.href = `#r-${number}`;
    const parts = [`${entry.f.length} tokens`, `${entry.kept} kept`];
    if (entry.max >= 0) parts.push(`highest KL ${nats(entry.max)}`);
    if (!entry.e) parts.push("cut off at the length limit");
    head.append(link, element("span", "", parts.join(" · ")));
    const body = element("p", "tokens");
    body.setAttribute("role", "group");
    body.setAttribute("aria-label", `Response of rollout ${number}, token by token`);
    const active = isActive();
    rollout.t.forEach((id, step) => {
      const kl = entry.k[step], kept = +entry.f[step] & KEPT, text = textOf(id);
      const span = element("span", `t t${level(kl)}`, text.includes("\n") ? text.replaceAll("\n", "↵\n") : text);
      if (kept) span.classList.add("kept");
      if (control.has(id)) span.classList.add("ctl");
      if (active && !matches(entry, step)) span.classList.add("dim");
      span.dataset.at = `${number} ${step}`;
      span.tabIndex = step ? -1 : 0;
      span.setAttribute("role", "button");
      span.setAttribute("aria-label", `${seen(text)}, step ${step}, KL ${nats(kl)} nats${kept ? ", kept" : ""}`);
      body.append(span);
    });
    made.append(head, element("p", "question", entry.q), body);
    return made;
  }

  // --- one token ---

  async function show(number, step) {
    const rollout = await details(number), entry = index[number];
    const id = rollout.t[step], kl = entry.k[step], kept = +entry.f[step] & KEPT, label = rollout.l[step];
    for (const other of list.querySelectorAll(".on")) other.classList.remove("on");
    spanOf(number, step)?.classList.add("on");
    const what = element("p", "what"), line = element("p", "kl");
    what.append(element("b", `t${level(kl)}`, seen(textOf(id))));
    line.append(element("strong", "", nats(kl)), element("span", "", "nats KL"),
      element("span", kept ? "yes" : "no", kept ? "kept" : kl === null ? "not scored" : "not kept"));
    const close = element("button", "close", "Close");
    close.addEventListener("click", () => card.classList.add("idle"));
    card.replaceChildren(close, what,
      element("p", "where", `rollout ${number}, step ${step} of ${rollout.t.length} · token id ${id}`), line,
      ...side("Expert", rollout, step, "e"), ...side("Amateur", rollout, step, "a"), ...target(label, id, kept));
    card.classList.remove("idle");
    card.dataset.at = `${number} ${step}`;
  }

  function option(kind, id, share, marked, taken) {
    const row = element("div", `opt ${kind}`), text = element("span", taken ? "x taken" : "x", seen(textOf(id)));
    text.title = `${seen(textOf(id))} (id ${id})`;
    const bar = element("span", "b"), fill = element("i");
    fill.style.width = `${Math.min(100, (share || 0) / 100)}%`;
    bar.append(fill);
    row.append(element("span", "m", marked ? "●" : ""), text, bar, element("span", "p", percent(share)));
    return row;
  }

  function side(name, rollout, step, key) {
    const head = element("h4", "", name), taken = rollout.t[step];
    head.append(element("span", "", `entropy ${nats(rollout[`h${key}`][step])} nats`));
    const ids = rollout[`${key}i`][step] || [], shares = rollout[`${key}p`][step] || [];
    const plausible = key === "e" ? rollout.m[step] || 0 : 0, kind = key === "e" ? "expert" : "amateur";
    const rows = ids.map((id, place) => option(kind, id, shares[place], place < plausible, id === taken));
    if (!ids.includes(taken)) rows.push(option(kind, taken, rollout[`p${key}`][step], false, true));
    return [head, ...rows];
  }

  function target(label, taken, kept) {
    const alpha = facts.alpha === null ? "" : `● α-mask: at least ${facts.alpha} of the expert's highest probability. `;
    const note = element("p", "small", `${alpha}Underlined: the token that the rollout took.`);
    if (!label) return [element("p", "small", kept ? "" : "Not kept: no label here."), note];
    const head = element("h4", "", "Label");
    head.append(element("span", "", label.i.length === 1 ? "one token" : `${label.i.length} tokens`));
    const rows = label.i.flatMap((id, place) => {
      const row = option("label", id, label.w[place], true, id === taken);
      if (label.e && label.a) row.title = `expert ${percent(label.e[place])}, amateur ${percent(label.a[place])}`;
      return [row];
    });
    return [head, ...rows, note];
  }

  // On a phone the card lies over the page: only while the tokens are in sight.
  new IntersectionObserver(([entry]) => card.classList.toggle("away", !entry.isIntersecting)).observe(find("browser"));

  const spanOf = (number, step) => list.querySelector(`[data-at="${number} ${step}"]`);
  const placeOf = (node) => node?.dataset?.at?.split(" ").map(Number);

  list.addEventListener("mouseover", (event) => {
    const at = placeOf(event.target);
    if (at) show(...at);
  });
  list.addEventListener("mouseleave", () => { if (focused) show(...focused); });
  list.addEventListener("focusin", (event) => {
    const at = placeOf(event.target);
    if (!at) return;
    for (const other of event.target.parentElement.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    event.target.tabIndex = 0;
    focused = at;
    show(...at);
  });
  list.addEventListener("click", (event) => { if (placeOf(event.target)) event.target.focus(); });

  // --- navigation ---

  async function go(number, step) {
    let place = order.indexOf(number);
    if (place < 0) {  // the filters hide the target of a link
      reset();
      await apply();
      place = order.indexOf(number);
    }
    if (Math.floor(place / PER_PAGE) !== page || !spanOf(number, 0)) {
      page = Math.floor(place / PER_PAGE);
      await draw();
    }
    for (const other of list.querySelectorAll(".here")) other.classList.remove("here");
    const span = spanOf(number, step);
    find(`rollout-${number}`)?.classList.add("here");
    span?.focus({ preventScroll: true });
    span?.scrollIntoView({ block: "center" });
  }

  function nextKept(direction) {
    let place = focused ? order.indexOf(focused[0]) : page * PER_PAGE;
    let step = focused && place >= 0 ? focused[1] + direction : direction > 0 ? 0 : Infinity;
    if (place < 0) place = page * PER_PAGE;
    for (; place >= 0 && place < order.length; place += direction) {
      const entry = index[order[place]];
      if (direction < 0) step = Math.min(step, entry.f.length - 1);
      for (; step >= 0 && step < entry.f.length; step += direction) {
        if (+entry.f[step] & KEPT && matches(entry, step)) return go(order[place], step);
      }
      step = direction > 0 ? 0 : Infinity;
    }
    return undefined;
  }

  list.addEventListener("keydown", (event) => {
    const at = placeOf(event.target);
    if (!at || event.ctrlKey || event.metaKey || event.altKey) return;
    const [number, step] = at, last = index[number].f.length - 1, place = order.indexOf(number);
    const to = {
      ArrowRight: [number, Math.min(step + 1, last)], ArrowLeft: [number, Math.max(step - 1, 0)],
      Home: [number, 0], End: [number, last],
      ArrowDown: [order[place + 1], 0], ArrowUp: [order[place - 1], 0],
    }[event.key];
    if (event.key === "Escape") card.classList.add("idle");
    if (!to || to[0] === undefined) return;
    event.preventDefault();
    go(...to);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
    if (event.key === "n") nextKept(1);
    if (event.key === "p") nextKept(-1);
  });
  find("previous").addEventListener("click", () => nextKept(-1));
  find("next").addEventListener("click", () => nextKept(1));
  for (const [id, by] of [["back", -1], ["on", 1]]) {
    find(id).addEventListener("click", async () => {
      page += by;
      await draw();
      find("browser").scrollIntoView();
    });
  }

  const milli = (input) => input.value === "" || !Number.isFinite(+input.value) ? null : Math.round(1000 * input.value);
  function read() {
    filter.text = find("search").value.trim().toLowerCase();
    filter.kept = find("kept").checked;
    filter.agreement = find("agreement").value;
    filter.low = milli(find("low"));
    filter.high = milli(find("high"));
    filter.sort = find("sort").value;
  }
  let resetting = false;  // set by `go`, which draws afterwards
  function reset() {
    resetting = true;
    find("filters").reset();
    resetting = false;
    read();
  }
  find("filters").addEventListener("input", () => { read(); apply(); });
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("filters").addEventListener("reset", () => {
    if (!resetting) setTimeout(() => { read(); apply(); });  // after the fields have changed
  });

  function follow() {
    const at = /^#r-(\d+)(?:-(\d+))?$/.exec(location.hash);
    if (at && +at[1] < index.length) go(+at[1], Math.min(+(at[2] || 0), index[+at[1]].f.length - 1));
  }
  window.addEventListener("hashchange", follow);
  await apply();
  follow();
})();

// In the frame of a notebook (srcdoc), a browser would look for the target of such a link in the notebook's own page.
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link || location.protocol !== "about:") return;
  event.preventDefault();
  location.hash = link.getAttribute("href");
});
