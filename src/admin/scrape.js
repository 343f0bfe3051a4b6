// Parses a scrape of /metrics, and computes rates and quantiles from two scrapes.

export class Scrape {
  /** `at` is the time of arrival, in milliseconds of the page's clock. */
  constructor(text, at) {
    this.text = text;
    this.at = at;
    this.families = new Map();
    for (const line of text.split("\n")) {
      const parts = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
      if (!parts) continue;
      const labels = {};
      for (const [, name, value] of (parts[2] ?? "").matchAll(/(\w+)="([^"]*)"/g)) labels[name] = value;
      if (!this.families.has(parts[1])) this.families.set(parts[1], []);
      this.families.get(parts[1]).push({ labels, value: Number(parts[3]) });
    }
  }

  /** Returns the samples of a metric that have these labels. */
  samples(metric, wanted = {}) {
    const all = this.families.get(metric) ?? [];
    return all.filter(({ labels }) => Object.keys(wanted).every((name) => labels[name] === wanted[name]));
  }

  /** Returns the sum of these samples, or null if there are none. */
  sum(metric, wanted) {
    const samples = this.samples(metric, wanted);
    return samples.length === 0 ? null : samples.reduce((sum, sample) => sum + sample.value, 0);
  }

  /** Returns the values of a label, in the order of the text. */
  values(metric, label) {
    return [...new Set(this.samples(metric).map(({ labels }) => labels[label]))];
  }
}

/** The time between two scrapes of one process. */
export class Between {
  /** `before` may be null. Rates and quantiles are unknown then, and after a restart of the server. */
  constructor(before, now) {
    const started = (scrape) => scrape.sum("process_start_time_seconds");
    this.before = before && started(before) === started(now) ? before : null;
    this.now = now;
  }

  /** Returns a counter's growth per second. */
  rate(metric, wanted) {
    if (!this.before) return null;
    const [was, is] = [this.before, this.now].map((scrape) => scrape.sum(metric, wanted));
    return was === null || is === null ? null : (is - was) / ((this.now.at - this.before.at) / 1000);
  }

  /**
   * Returns the quantile `share` of the values that a histogram counted, like Prometheus' histogram_quantile, which
   * interpolates linearly within a bucket. Returns null if nothing was counted.
   */
  quantile(metric, share) {
    if (!this.before) return null;
    const was = this.before.samples(metric);
    const buckets = this.now.samples(metric).map(({ labels, value }, index) => ({
      bound: labels.le === "+Inf" ? Infinity : Number(labels.le),
      count: value - (was[index]?.value ?? 0),
    }));
    const total = buckets.at(-1)?.count ?? 0;
    if (total === 0) return null;
    const rank = share * total;
    const at = buckets.findIndex((bucket) => bucket.count >= rank);
    const below = at === 0 ? { bound: 0, count: 0 } : buckets[at - 1];
    if (buckets[at].bound === Infinity) return below.bound;
    const part = (rank - below.count) / (buckets[at].count - below.count);
    return below.bound + (buckets[at].bound - below.bound) * part;
  }
}
