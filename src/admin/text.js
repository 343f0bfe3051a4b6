// Formats numbers for people.

/** Returns 123,457, or 1.23 M from a million on. Small numbers have one or two decimals. */
export function number(value) {
  if (value >= 1e12) return `${(value / 1e12).toFixed(2)} T`;
  if (value >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (value >= 100 || Number.isInteger(value)) return grouped(Math.round(value));
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Returns every digit, for totals that people compare. */
export function count(value) {
  return grouped(value);
}

/** Returns 1.50 MiB, with about three digits. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${at === 0 && Number.isInteger(value) ? value : digits(value)} ${units[at]}`;
}

/** Returns 285 µs, 1.52 ms or 2.00 s. */
export function duration(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 1e-3) return `${digits(seconds * 1e6)} µs`;
  if (seconds < 1) return `${digits(seconds * 1e3)} ms`;
  return `${digits(seconds)} s`;
}

/** Returns the two largest units: 3 d 4 h, 12 min 5 s. */
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first === -1) return "0 s";
  return parts.slice(first, first + 2).map(([value, unit]) => `${value} ${unit}`).join(" ");
}

/** Returns a label's value in words: `frame_too_large` becomes `frame too large`. */
export function words(label) {
  return label.replaceAll("_", " ");
}

function digits(value) {
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function grouped(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, ",");
}
