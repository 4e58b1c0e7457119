"use strict";
// What a page does beyond showing: values under the pointer, and search and order of examples. No request is made.

/** Show the values of a chart's lines at the x nearest to the pointer. */
function showValues(event, chart, tip) {
  const box = chart.getBoundingClientRect();
  const at = (event.clientX - box.left) / box.width;
  const stops = JSON.parse(chart.dataset.hover);
  const nearest = stops.reduce((a, b) => (Math.abs(b.at - at) < Math.abs(a.at - at) ? b : a));
  const heading = document.createElement("strong");
  heading.textContent = nearest.label;
  const rows = nearest.lines.map(([name, value, colour]) => {
    const row = document.createElement("span");
    row.style.color = colour;
    row.textContent = `${name} ${value}`;
    return row;
  });
  tip.replaceChildren(heading, ...rows);
  tip.hidden = false;
  const width = document.documentElement.clientWidth;
  const left = Math.min(box.left + nearest.at * box.width + 12, width - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
}

function watchCharts() {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const chart of document.querySelectorAll("svg[data-hover]")) {
    chart.addEventListener("pointermove", (event) => showValues(event, chart, tip));
    chart.addEventListener("pointerdown", (event) => showValues(event, chart, tip));
    chart.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
}

/** How much a ranker moved the first right answer, by reciprocal rank; 0 is not ranked. */
function gainOf(example) {
  const reciprocal = (rank) => (Number(rank) ? 1 / Number(rank) : 0);
  return reciprocal(example.dataset.after) - reciprocal(example.dataset.before);
}

const ORDERS = {
  helped: (a, b) => gainOf(b) - gainOf(a),
  hurt: (a, b) => gainOf(a) - gainOf(b),
  rank: (a, b) => (Number(b.dataset.after) || Infinity) - (Number(a.dataset.after) || Infinity) || 0,
};

function textOf(example) {
  const pictures = [...example.querySelectorAll("img")].map((picture) => picture.alt);
  return [example.textContent, ...pictures].join(" ").toLowerCase();
}

function watchExamples() {
  const tools = document.querySelector(".example-tools");
  if (!tools) return;
  const examples = [...document.querySelectorAll("article.example")];
  const texts = new Map(examples.map((example) => [example, textOf(example)]));
  const [words, order, count] = ["input", "select", "output"].map((name) => tools.querySelector(name));
  const update = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const example of examples) example.hidden = !wanted.every((word) => texts.get(example).includes(word));
    const sorted = ORDERS[order.value] ? [...examples].sort(ORDERS[order.value]) : examples;
    examples[0].parentElement.append(...sorted);
    const shown = examples.filter((example) => !example.hidden).length;
    count.textContent = `${shown} of ${examples.length} queries`;
  };
  tools.addEventListener("input", update);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.hidden = false;
  update();
}

watchCharts();
watchExamples();
