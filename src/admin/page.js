// Asks the server once per second and shows its answers.

import { Chart, SPAN_MAX } from "./chart.js";
import { figures, hasJournal } from "./figures.js";
import { Between, Scrape } from "./scrape.js";
import { reasonsTable, shardsTable } from "./tables.js";
import { bytes, duration, number } from "./text.js";

const PERIOD = 1000;
/** The time limit of an answer, in milliseconds. */
const TIMEOUT = 4000;

const line = (name, figure) => ({ name, figure });
const CHARTS = {
  requests: {
    lines: [line("with 0", "acks_success_per_second"), line("with 1", "acks_failure_per_second")],
    write: tick(number),
  },
  latency: {
    lines: [line("median", "latency_p50_seconds"), line("p99", "latency_p99_seconds")],
    write: tick(duration),
    log: true,
  },
  connections: { lines: [line("open", "connections_open")], write: tick(number) },
  turnover: { lines: [line("accepted", "accepted_per_second"), line("closed", "ended_per_second")], write: tick(number) },
  rejects: { lines: [line("rejected", "rejects_per_second"), line("limits", "limits_per_second")], write: tick(number) },
  traffic: {
    lines: [line("received", "received_bytes_per_second"), line("sent", "sent_bytes_per_second")],
    write: tick(bytes),
    binary: true,
  },
  commit_time: {
    lines: [line("median", "commit_p50_seconds"), line("p99", "commit_p99_seconds")],
    write: tick(duration),
    log: true,
  },
  commits: { lines: [line("commits", "commits_per_second")], write: tick(number) },
  commit_bytes: { lines: [line("written", "commit_bytes_per_second")], write: tick(bytes), binary: true },
};

const element = (id) => document.getElementById(id);
const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => new Chart(figure, CHARTS[figure.dataset.chart]));
const samples = [];
let before = null;
let paused = false;
let lost = null;

/** The scrapes that the shown figures are computed from, for scripts/check-page. */
window.shown = null;

element("where").textContent = location.host;
element("pause").addEventListener("click", () => {
  paused = !paused;
  element("pause").setAttribute("aria-pressed", String(paused));
  element("pause").textContent = paused ? "Resume" : "Pause";
  if (paused) state("", "Paused");
});

async function ask(path) {
  return fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
}

async function look() {
  try {
    const [metrics, ready] = await Promise.all([ask("metrics"), ask("readyz")]);
    if (!metrics.ok) throw new Error(`/metrics answered ${metrics.status}`);
    const at = performance.now();
    const [text, verdict] = await Promise.all([metrics.text(), ready.text()]);
    const healthy = ready.ok || (await ask("healthz")).ok;
    if (paused) return;
    lost = null;
    show(new Scrape(text, at));
    judge(ready.ok, healthy, verdict.trim());
  } catch {
    if (!paused) miss();
  }
}

function show(now) {
  const between = new Between(before, now);
  const wall = Date.now();
  const all = figures(between, wall / 1000);
  document.body.classList.remove("stale");
  samples.push({ at: now.at, wall, figures: all });
  while (samples[0].at < now.at - SPAN_MAX) samples.shift();
  const journal = hasJournal(now);
  for (const part of document.querySelectorAll("[data-journal]")) part.hidden = !journal;
  shardsTable(element("shards"), now.values("ringpost_heartbeats_total", "shard"), journal);
  reasonsTable(element("rejects"), now.values("ringpost_frames_rejected_total", "reason"), "rejected");
  const closed = now.samples("ringpost_connections_closed_total").filter(({ value }) => value > 0);
  reasonsTable(element("closes"), closed.map(({ labels }) => labels.reason), "closed");
  for (const place of document.querySelectorAll("[data-figure]")) {
    const { value, text } = all[place.dataset.figure];
    if (place.textContent !== text) place.textContent = text;
    place.dataset.value = value ?? "";
  }
  for (const chart of charts) chart.show(samples);
  window.shown = { now, before: between.before, wall };
  before = now;
}

/** Shows the state that the server reports. */
function judge(ready, healthy, verdict) {
  if (ready) return state("good", "Ready");
  if (verdict === "draining") return state("warn", "Draining: no new connections");
  return healthy ? state("warn", `Not ready: ${verdict}`) : state("bad", `Unhealthy: ${verdict}`);
}

/** The text does not change while the server can't be reached, so that a screen reader reads it once. */
function miss() {
  lost ??= new Date();
  document.body.classList.add("stale");
  const stale = samples.length ? "; the figures below are out of date" : "";
  state("bad", `No answer since ${lost.toLocaleTimeString()}${stale}`);
}

function state(kind, words) {
  const pill = element("state");
  pill.className = `pill ${kind}`;
  if (pill.textContent !== words) pill.textContent = words;
  document.title = kind === "good" ? "Ringpost" : `${words.split(/[:;]| since/)[0]}: Ringpost`;
}

/** Returns the format of an axis' values, which omits decimals that are 0. */
function tick(write) {
  return (value) => write(value).replace(/(\.\d*?)0+(?=$| )/, "$1").replace(/\.(?=$| )/, "");
}

for (;;) {
  if (!paused) await look();
  await new Promise((done) => setTimeout(done, PERIOD));
}
