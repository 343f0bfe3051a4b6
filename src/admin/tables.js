// Builds the tables whose rows depend on the server's answer. Their cells are filled like every other figure.

import { words } from "./text.js";

/** The heading and figures of each column of the shards' table. Without a journal, its columns are omitted. */
const SHARD_COLUMNS = [
  ["Connections", ["connections"]],
  ["Requests/s", ["requests_per_second"]],
  ["Heartbeats/s", ["heartbeats_per_second"]],
  ["Buffers", ["buffer_bytes", "buffer_limit_bytes"]],
  ["Memory waits", ["memory_waits_total"]],
  ["Durable/s", ["records_per_second"], "journal"],
  ["Gathered", ["gathered_bytes"], "journal"],
  ["In flight", ["in_flight_bytes"], "journal"],
  ["Oldest not durable", ["oldest_unsynced_seconds"], "journal"],
  ["Journal", ["condition"], "journal"],
];

/** Builds a row for each shard. */
export function shardsTable(table, shards, journal) {
  if (!changed(table, `${shards} ${journal}`)) return;
  const columns = SHARD_COLUMNS.filter(([, , needs]) => !needs || journal);
  const head = row("Shard", columns.map(([name]) => cell("th", { scope: "col", role: "columnheader" }, name)));
  const rows = shards.map((shard) =>
    row(shard, columns.map(([name, figures]) => {
      const parts = figures.map((figure) => shown(`shard_${shard}_${figure}`));
      const value = cell("span", {}, ...parts.flatMap((part, index) => (index ? [" of ", part] : [part])));
      return cell("td", { role: "cell", "data-name": name }, value);
    })));
  table.replaceChildren(
    cell("thead", { role: "rowgroup" }, head),
    cell("tbody", { role: "rowgroup" }, ...rows),
  );
}

/** Builds a row for each reason, with its rate and total. `prefix` begins the names of these figures. */
export function reasonsTable(table, reasons, prefix) {
  if (!changed(table, reasons.join())) return;
  if (reasons.length === 0) {
    table.replaceChildren(cell("tbody", {}, cell("tr", {}, cell("td", { class: "none" }, "None yet"))));
    return;
  }
  const heading = (name) => cell("th", { scope: "col" }, name);
  const head = cell("tr", {}, heading("Reason"), heading("Per second"), heading("Total"));
  const rows = reasons.map((reason) => cell("tr", {},
    cell("th", { scope: "row" }, words(reason)),
    cell("td", {}, shown(`${prefix}_${reason}_per_second`)),
    cell("td", {}, shown(`${prefix}_${reason}_total`))));
  table.replaceChildren(cell("thead", {}, head), cell("tbody", {}, ...rows));
}

/** Builds a row with a heading. Roles are explicit, because the narrow layout removes the elements' own roles. */
function row(name, cells) {
  const isHead = cells[0]?.localName === "th";
  const heads = isHead ? { scope: "col", role: "columnheader" } : { scope: "row", role: "rowheader" };
  return cell("tr", { role: "row" }, cell("th", heads, isHead ? name : `Shard ${name}`), ...cells);
}

function shown(figure) {
  return cell("span", { "data-figure": figure }, "–");
}

function cell(element, attributes, ...children) {
  const made = document.createElement(element);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Returns whether a table needs different rows than before. */
function changed(table, rows) {
  if (table.dataset.rows === rows) return false;
  table.dataset.rows = rows;
  return true;
}
