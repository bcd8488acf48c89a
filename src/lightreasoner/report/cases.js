// The browser of the cases: items whose verdict changed.
(async () => {
  const PER_PAGE = 5;
  const list = find("case-list");
  if (!list || !find("data-cases")) return;
  const status = find("case-count"), form = find("case-filters");
  if (!("DecompressionStream" in window)) {
    status.textContent = "This browser cannot unpack the cases; one from 2023 or later can.";
    return;
  }
  const facts = await unpack("cases");
  const { index, details } = await blocks("case-index", "case-block", facts.blocks);
  for (const entry of index) entry.lower = `${entry.q}\n${entry.g}`.toLowerCase();
  facts.benchmarks.forEach((name, place) => {
    const option = element("option", "", name);
    option.value = place;
    find("case-benchmark").append(option);
  });

  let order = [], page = 0, drawing = 0;

  function matches(entry) {
    const text = find("case-search").value.trim().toLowerCase(), verdict = find("case-verdict").value;
    const benchmark = find("case-benchmark").value, [before, after] = entry.c;
    if (text && !entry.lower.includes(text)) return false;
    if (verdict !== "any" && entry.r !== +verdict) return false;
    if (benchmark !== "any" && entry.b !== +benchmark) return false;
    return { any: true, before, after, none: !before && !after }[find("case-limit").value];
  }
  function apply() {
    order = [...index.keys()].filter((number) => matches(index[number]));
    status.textContent = counted(order.length, "case");
    page = 0;
    return draw();
  }

  async function draw() {
    const mine = ++drawing, pages = Math.max(1, Math.ceil(order.length / PER_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const numbers = order.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    const found = await Promise.all(numbers.map(details));
    if (mine !== drawing) return;  // a newer call has started
    list.replaceChildren(...numbers.map((number, place) => article(number, found[place])));
    if (!numbers.length) list.append(element("p", "note", "Nothing matches. Clear the filters to see all cases."));
    setPager(find("case-back"), find("case-on"), find("case-page"), page, pages);
    list.dataset.ready = "yes";
  }

  function article(number, found) {
    const entry = index[number], made = element("article", "case");
    made.dataset.case = number;
    const parts = [`Case ${number + 1}`, facts.benchmarks[entry.b], entry.r ? "became right" : "became wrong"];
    if (found.d !== null) parts.push(`the answers differ from token ${found.d} on`);
    const meta = element("p", "meta", `${parts.join(" · ")} · gold answer `);
    meta.append(element("bdi", "", entry.g));
    const two = element("div", "two");
    two.append(answer("Before", found.a[0]), answer("After", found.a[1]));
    const question = element("p", "question", entry.q);
    question.dir = "auto";
    made.append(question, meta, two);
    return made;
  }

  function answer(title, found) {
    const made = element("div"), head = element("h4", "", `${title} `), text = element("p", "answer");
    head.append(element("b", found.o ? "good" : "bad", found.o ? "✓ right" : "✗ wrong"));
    if (found.x !== null) head.append(", answers ", element("bdi", "", found.x));
    if (found.n !== null) head.append(` · ${counted(found.n, "token")}`);
    if (found.l) head.append(element("b", "bad", " · cut off at the length limit"));
    text.dir = "auto";
    text.append(element("span", "same", found.s));
    if (found.m) text.append(element("mark", "", seen(found.m)));
    text.append(found.r);
    if (found.c) text.append(element("bdi", "same", ` … (${counted(found.c, "more token")})`));
    made.append(head, text);
    return made;
  }

  for (const [id, by] of [["case-back", -1], ["case-on", 1]]) {
    find(id).addEventListener("click", async () => {
      page += by;
      await draw();
      find("cases").scrollIntoView();
    });
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));  // after the fields have changed
  await apply();
})();
