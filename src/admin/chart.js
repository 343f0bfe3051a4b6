// Draws a line chart as SVG, again after every sample and every change of its size.

const LEFT = 62;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 22;
/** The longest time between two samples that are connected by a line, in milliseconds. */
const GAP = 3500;
/** The shortest and the longest time that a chart shows, in milliseconds. */
const SPAN_MIN = 60_000;
export const SPAN_MAX = 300_000;

export class Chart {
  /**
   * Adds a chart to `figure`, below its heading and note. Each of `lines` has a name and the figure that it draws.
   * `write` formats the axis. `log` is for values over several decades, and `binary` for bytes.
   */
  constructor(figure, { lines, write, log = false, binary = false }) {
    Object.assign(this, { lines, write, log, binary, samples: [], chosen: null });
    this.title = figure.querySelector("h2").textContent;
    this.svg = svg("svg", { role: "img", tabindex: "0" });
    this.legend = document.createElement("p");
    this.legend.className = "legend";
    this.values = lines.map(({ name, figure: shown }, index) => {
      const key = document.createElement("span");
      key.className = `key ${CLASSES[index]}`;
      const value = document.createElement("b");
      value.dataset.figure = shown;
      key.append(`${name} `, value);
      this.legend.append(key);
      return value;
    });
    this.moment = document.createElement("span");
    this.moment.className = "note";
    this.moment.setAttribute("aria-live", "polite");
    this.legend.append(this.moment);
    figure.append(this.legend, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.choose(this.nearest(event.offsetX)));
    for (const leaves of ["pointerleave", "blur"]) this.svg.addEventListener(leaves, () => this.choose(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  /** Draws samples of `figures`. `at` is in milliseconds of the page's clock, and `wall` is the time of day. */
  show(samples) {
    this.samples = samples;
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.svg;
    if (this.samples.length === 0 || width === 0) return;
    const last = this.samples.at(-1);
    const span = Math.min(SPAN_MAX, Math.max(SPAN_MIN, last.at - this.samples[0].at));
    const drawn = this.samples.filter((sample) => sample.at >= last.at - span);
    const axis = this.log ? logAxis(this.all(drawn)) : linearAxis(this.all(drawn), this.binary);
    this.across = (sample) => LEFT + (1 - (last.at - sample.at) / span) * (width - LEFT - RIGHT);
    const up = (value) => height - BOTTOM - axis.place(value) * (height - TOP - BOTTOM);
    const parts = [];
    for (const tick of axis.ticks) {
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: up(tick), y2: up(tick) }));
      parts.push(svg("text", { class: "y", x: LEFT - 8, y: up(tick) + 4 }, this.write(tick)));
    }
    for (const [part, name] of [[0, "first"], [0.5, ""], [1, "last"]]) {
      const x = LEFT + part * (width - LEFT - RIGHT);
      const text = part === 1 ? "now" : ago(span * (1 - part));
      parts.push(svg("text", { class: `x ${name}`, x, y: height - 5 }, text));
    }
    this.lines.forEach((line, index) => {
      for (const run of runs(drawn, line.figure)) {
        const points = run.map((sample) => `${this.across(sample).toFixed(1)} ${up(value(sample, line)).toFixed(1)}`);
        const path = `M${points.join("L")}`;
        const [from, to] = [run[0], run.at(-1)].map((sample) => this.across(sample).toFixed(1));
        if (!this.log && index === 0) {
          parts.push(svg("path", { class: `area ${CLASSES[index]}`, d: `${path}L${to} ${up(0)}L${from} ${up(0)}Z` }));
        }
        parts.push(svg("path", { class: `line ${CLASSES[index]}`, d: run.length > 1 ? path : `${path}h.01` }));
      }
    });
    const chosen = drawn.includes(this.chosen) ? this.chosen : null;
    if (chosen) {
      const x = this.across(chosen);
      parts.push(svg("line", { class: "cursor", x1: x, x2: x, y1: TOP, y2: height - BOTTOM }));
      this.lines.forEach((line, index) => {
        if (value(chosen, line) === null) return;
        parts.push(svg("circle", { class: `dot ${CLASSES[index]}`, cx: x, cy: up(value(chosen, line)), r: 4 }));
      });
    }
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...parts);
    this.describe(chosen ?? last, drawn, chosen);
  }

  /** Sets the legend's values, and describes the chart in words. */
  describe(sample, drawn, chosen) {
    this.lines.forEach((line, index) => {
      this.values[index].textContent = sample.figures[line.figure].text;
    });
    this.moment.textContent = chosen ? `at ${new Date(chosen.wall).toLocaleTimeString()}` : "";
    const words = this.lines.map((line) => {
      const values = this.all(drawn, [line]);
      const range = values.length ? `, from ${this.write(Math.min(...values))} to ${this.write(Math.max(...values))}` : "";
      return `${line.name} ${drawn.at(-1).figures[line.figure].text}${range}`;
    });
    this.svg.setAttribute("aria-label", `${this.title}: ${words.join("; ")}`);
  }

  all(samples, lines = this.lines) {
    return samples.flatMap((sample) => lines.map((line) => value(sample, line))).filter((value) => value !== null);
  }

  choose(sample) {
    this.chosen = sample;
    this.draw();
  }

  nearest(x) {
    if (!this.across) return null;
    const far = (sample) => Math.abs(this.across(sample) - x);
    return this.samples.reduce((best, sample) => (far(sample) < far(best) ? sample : best), this.samples[0]);
  }

  key(event) {
    const last = this.samples.length - 1;
    const at = this.chosen ? this.samples.indexOf(this.chosen) : last;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.choose(to === null ? null : this.samples[Math.min(last, Math.max(0, to))]);
  }
}

/** Returns the stretches without a gap in which the figure is known. */
function runs(samples, figure) {
  const out = [];
  let before = null;
  for (const sample of samples) {
    if (sample.figures[figure].value === null) {
      before = null;
      continue;
    }
    if (before && sample.at - before.at <= GAP) out.at(-1).push(sample);
    else out.push([sample]);
    before = sample;
  }
  return out;
}

/** Returns an axis from 0 to a round number, with ticks at round numbers. */
function linearAxis(values, binary) {
  const high = Math.max(0, ...values) || 1;
  const wanted = (high / 3) * 0.999;
  const decade = 10 ** Math.floor(Math.log10(wanted));
  const step = binary
    ? 2 ** Math.ceil(Math.log2(wanted))
    : [1, 2, 5, 10].map((part) => part * decade).find((part) => part >= wanted);
  const steps = Math.max(1, Math.ceil((high / step) * 0.999));
  return {
    ticks: Array.from({ length: steps + 1 }, (_, tick) => tick * step),
    place: (value) => value / (steps * step),
  };
}

/** Returns an axis of whole decades that covers all values, with at most five ticks. */
function logAxis(values) {
  const some = values.filter((value) => value > 0);
  const low = some.length ? Math.floor(Math.log10(Math.min(...some)) + 1e-9) : -4;
  const high = Math.max(low + 1, some.length ? Math.ceil(Math.log10(Math.max(...some)) - 1e-9) : -2);
  const step = Math.ceil((high - low) / 4);
  const decades = Array.from({ length: high - low + 1 }, (_, index) => index).filter((index) => index % step === 0);
  return {
    ticks: decades.map((index) => 10 ** (low + index)),
    place: (value) => Math.max(0, (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low)),
  };
}

function ago(milliseconds) {
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 120) return `${seconds} s ago`;
  return seconds % 60 === 0 ? `${seconds / 60} min ago` : `${Math.floor(seconds / 60)} min ${seconds % 60} s ago`;
}

function value(sample, line) {
  return sample.figures[line.figure].value;
}

function svg(element, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", element);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const CLASSES = ["one", "two"];
