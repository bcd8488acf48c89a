"use strict";
// Shared by the browsers of the page. All text is set as text, never as markup. Blocks of data are unpacked on demand.
const find = (id) => document.getElementById(id);

async function unpack(id) {
  const bytes = Uint8Array.from(atob(JSON.parse(find(`data-${id}`).textContent)), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

const counted = (value, noun) => `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;
const seen = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "→").replace(/^ +| +$/g, (blanks) => "␣".repeat(blanks.length));

// The entries of the index, and a function that unpacks the details of one of them; the last CACHED blocks are held.
async function blocks(name, detailed, count) {
  const CACHED = 12;
  const parts = await Promise.all(Array.from({ length: count }, (_, number) => unpack(`${name}-${number}`)));
  const perBlock = parts.length ? parts[0].length : 1;
  const cache = new Map();  // block number → promise of its content, least recently used first
  function details(number) {
    const block = Math.floor(number / perBlock);
    const found = cache.get(block) || unpack(`${detailed}-${block}`);
    cache.delete(block);
    cache.set(block, found);
    if (cache.size > CACHED) cache.delete(cache.keys().next().value);
    return found.then((content) => content[number % perBlock]);
  }
  return { index: parts.flat(), details };
}

// The buttons of a pager; the focus stays on one that works.
function setPager(back, on, label, page, pages) {
  label.textContent = `page ${(page + 1).toLocaleString("en")} of ${pages.toLocaleString("en")}`;
  const lost = document.activeElement;
  back.disabled = page === 0;
  on.disabled = page === pages - 1;
  if (lost === back && back.disabled) on.focus({ preventScroll: true });
  if (lost === on && on.disabled) back.focus({ preventScroll: true });
}

// A table that is wider than its place says so, and can be scrolled by keyboard.
(() => {
  const watch = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target)));
  function mark(box) {
    const scrolls = box.scrollWidth > box.clientWidth + 1, hint = box.previousElementSibling;
    if (scrolls === (hint !== null && hint.matches(".scrollhint"))) return;
    if (!scrolls) {
      hint.remove();
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      return;
    }
    box.before(element("p", "scrollhint", "The table is wider than the screen: scroll it sideways →"));
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    const title = box.closest("section")?.querySelector("h2")?.textContent || "data";
    box.setAttribute("aria-label", `Table of the section ${title}, scrolls sideways`);
  }
  document.querySelectorAll(".table").forEach((box) => watch.observe(box));
})();
