// Computes every figure that the page shows, by name: its value and its text.

import { bytes, count, duration, number, span, words } from "./text.js";

/** The words for a journal's condition. */
const CONDITIONS = ["accepts messages", "no space", "failed"];
/** The close reasons that are limits. */
const LIMITS = [
  "connection_limit", "connection_limit_per_ip", "out_of_descriptors", "idle_timeout", "frame_timeout",
  "write_timeout", "too_slow", "keepalive", "cut",
];

/** Returns all figures of two scrapes. `time` is the time of day in seconds. */
export function figures(between, time) {
  const { now } = between;
  const out = {};
  const put = (name, value, write) => {
    out[name] = { value, text: value === null ? "–" : write(value) };
  };
  const rate = (name, metric, wanted, write = number) => put(name, between.rate(metric, wanted), write);
  const sum = (name, metric, wanted, write = count) => put(name, now.sum(metric, wanted), write);
  const label = (name, metric, key) => put(name, now.samples(metric)[0]?.labels[key] ?? null, words);

  label("version", "ringpost_build_info", "version");
  const engine = now.samples("ringpost_engine_info")[0]?.labels.engine ?? null;
  put("engine", engine, (name) => (name === "uring" ? "io_uring" : name));
  label("engine_reason", "ringpost_engine_info", "reason");
  const shards = now.values("ringpost_heartbeats_total", "shard");
  put("shards", shards.length, (many) => `${many} ${many === 1 ? "shard" : "shards"}`);
  const started = now.sum("process_start_time_seconds");
  put("uptime_seconds", started === null ? null : time - started, span);

  sum("connections_open", "ringpost_connections_open");
  rate("requests_per_second", "ringpost_requests_total");
  rate("acks_per_second", "ringpost_acks_total");
  rate("acks_success_per_second", "ringpost_acks_total", { result: "success" });
  rate("acks_failure_per_second", "ringpost_acks_total", { result: "failure" });
  put("latency_p50_seconds", between.quantile("ringpost_ack_latency_seconds_bucket", 0.5), duration);
  put("latency_p99_seconds", between.quantile("ringpost_ack_latency_seconds_bucket", 0.99), duration);
  rate("rejects_per_second", "ringpost_frames_rejected_total");
  put("limits_per_second", total(LIMITS.map((reason) => between.rate(CLOSED, { reason }))), number);
  rate("accepted_per_second", "ringpost_connections_total");
  rate("ended_per_second", CLOSED);
  rate("received_bytes_per_second", "ringpost_received_bytes_total", {}, bytesPerSecond);
  rate("sent_bytes_per_second", "ringpost_sent_bytes_total", {}, bytesPerSecond);
  rate("commits_per_second", "ringpost_journal_commit_seconds_count");
  rate("commit_bytes_per_second", "ringpost_journal_commit_bytes_sum", {}, bytesPerSecond);
  put("commit_p50_seconds", between.quantile("ringpost_journal_commit_seconds_bucket", 0.5), duration);
  put("commit_p99_seconds", between.quantile("ringpost_journal_commit_seconds_bucket", 0.99), duration);
  rate("cpu_cores", "process_cpu_seconds_total");

  sum("connections_total", "ringpost_connections_total");
  sum("accept_errors_total", "ringpost_accept_errors_total");
  sum("submits_total", "ringpost_requests_total", { kind: "submit" });
  sum("conns_total", "ringpost_requests_total", { kind: "conn" });
  sum("acks_success_total", "ringpost_acks_total", { result: "success" });
  sum("acks_failure_total", "ringpost_acks_total", { result: "failure" });
  sum("records_total", "ringpost_journal_records_total");
  sum("segments_total", "ringpost_journal_segments_total");
  // Every shard reports the free space of the same file system.
  const free = now.samples("ringpost_journal_free_bytes").map((sample) => sample.value);
  put("journal_free_bytes", free.length === 0 ? null : Math.min(...free), bytes);
  sum("resident_bytes", "process_resident_memory_bytes", {}, bytes);
  sum("open_files", "process_open_fds");
  sum("open_files_max", "process_max_fds");
  sum("cpu_seconds", "process_cpu_seconds_total", {}, duration);
  sum("log_lines_suppressed_total", "ringpost_log_lines_suppressed_total");

  for (const reason of now.values(REJECTED, "reason")) {
    sum(`rejected_${reason}_total`, REJECTED, { reason });
    rate(`rejected_${reason}_per_second`, REJECTED, { reason });
  }
  for (const reason of now.values(CLOSED, "reason")) {
    if (!now.sum(CLOSED, { reason })) continue;
    sum(`closed_${reason}_total`, CLOSED, { reason });
    rate(`closed_${reason}_per_second`, CLOSED, { reason });
  }
  for (const shard of shards) {
    const of = (name) => `shard_${shard}_${name}`;
    sum(of("connections"), "ringpost_connections_open", { shard });
    rate(of("requests_per_second"), "ringpost_requests_total", { shard });
    rate(of("heartbeats_per_second"), "ringpost_heartbeats_total", { shard });
    sum(of("buffer_bytes"), "ringpost_buffer_bytes", { shard }, bytes);
    sum(of("buffer_limit_bytes"), "ringpost_buffer_limit_bytes", { shard }, (limit) => (limit ? bytes(limit) : "no limit"));
    sum(of("memory_waits_total"), "ringpost_memory_waits_total", { shard });
    rate(of("records_per_second"), "ringpost_journal_records_total", { shard });
    sum(of("gathered_bytes"), "ringpost_journal_gathered_bytes", { shard }, bytes);
    sum(of("in_flight_bytes"), "ringpost_journal_in_flight_bytes", { shard }, bytes);
    sum(of("oldest_unsynced_seconds"), "ringpost_journal_oldest_unsynced_seconds", { shard }, duration);
    sum(of("condition"), "ringpost_journal_condition", { shard }, (condition) => CONDITIONS[condition] ?? condition);
  }
  return out;
}

/** Returns whether the server has a journal. If it has, it is creating at least one segment. */
export function hasJournal(now) {
  return now.sum("ringpost_journal_segments_total") + now.sum("ringpost_journal_free_bytes") > 0;
}

function total(values) {
  return values.includes(null) ? null : values.reduce((sum, value) => sum + value, 0);
}

function bytesPerSecond(value) {
  return `${bytes(value)}/s`;
}

const CLOSED = "ringpost_connections_closed_total";
const REJECTED = "ringpost_frames_rejected_total";
