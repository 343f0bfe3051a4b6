"""Computes the figures that the page of the admin address must show for two scrapes, with code of its own."""

import math
import re

CLOSED, REJECTED = "ringpost_connections_closed_total", "ringpost_frames_rejected_total"
LIMITS = ("connection_limit", "connection_limit_per_ip", "out_of_descriptors", "idle_timeout", "frame_timeout",
          "write_timeout", "too_slow", "keepalive", "cut")
CONDITIONS = ["accepts messages", "no space", "failed"]
UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
         "µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400, "shard": 1, "shards": 1}
# Figures that check-page's load must change. All of them are 0 on an idle server.
BUSY = ["connections_open", "requests_per_second", "acks_failure_total", "latency_p50_seconds", "latency_p99_seconds",
        "commits_per_second", "commit_p99_seconds", "rejected_frame_too_large_total", "closed_connection_limit_total",
        "records_total", "cpu_cores"]


def parse(text):
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {series: float(value) for series, value in lines}


def figures(now, before, seconds, wall):
    """Returns the value of every figure: a number, a word, or None if it is unknown."""
    heartbeats = re.compile(r'^ringpost_heartbeats.*shard="(\d+)"')
    shards = sorted({int(shard) for series in now for shard in heartbeats.findall(series)})
    started = "process_start_time_seconds"

    def total(metric, scrape=now, **labels):
        labels = [f'{name}="{value}"' for name, value in labels.items()]
        return sum(value for series, value in scrape.items()
                   if series.split("{")[0] == metric and all(label in series for label in labels))

    def rate(metric, **labels):
        return (total(metric, now, **labels) - total(metric, before, **labels)) / seconds

    def word(metric, label):
        return next(re.search(f'{label}="([^"]*)"', series)[1] for series in now if series.startswith(metric + "{"))

    out = {
        "version": word("ringpost_build_info", "version"),
        "engine": word("ringpost_engine_info", "engine").replace("uring", "io_uring"),
        "engine_reason": word("ringpost_engine_info", "reason").replace("_", " "),
        "shards": len(shards),
        "uptime_seconds": wall - now[started],
        "connections_open": total("ringpost_connections_open"),
        "requests_per_second": rate("ringpost_requests_total"),
        "acks_per_second": rate("ringpost_acks_total"),
        "acks_success_per_second": rate("ringpost_acks_total", result="success"),
        "acks_failure_per_second": rate("ringpost_acks_total", result="failure"),
        "latency_p50_seconds": quantile(now, before, "ringpost_ack_latency_seconds", 0.5),
        "latency_p99_seconds": quantile(now, before, "ringpost_ack_latency_seconds", 0.99),
        "rejects_per_second": rate(REJECTED),
        "limits_per_second": sum(rate(CLOSED, reason=reason) for reason in LIMITS),
        "accepted_per_second": rate("ringpost_connections_total"),
        "ended_per_second": rate(CLOSED),
        "received_bytes_per_second": rate("ringpost_received_bytes_total"),
        "sent_bytes_per_second": rate("ringpost_sent_bytes_total"),
        "commits_per_second": rate("ringpost_journal_commit_seconds_count"),
        "commit_bytes_per_second": rate("ringpost_journal_commit_bytes_sum"),
        "commit_p50_seconds": quantile(now, before, "ringpost_journal_commit_seconds", 0.5),
        "commit_p99_seconds": quantile(now, before, "ringpost_journal_commit_seconds", 0.99),
        "cpu_cores": rate("process_cpu_seconds_total"),
        "connections_total": total("ringpost_connections_total"),
        "accept_errors_total": total("ringpost_accept_errors_total"),
        "submits_total": total("ringpost_requests_total", kind="submit"),
        "conns_total": total("ringpost_requests_total", kind="conn"),
        "acks_success_total": total("ringpost_acks_total", result="success"),
        "acks_failure_total": total("ringpost_acks_total", result="failure"),
        "records_total": total("ringpost_journal_records_total"),
        "segments_total": total("ringpost_journal_segments_total"),
        "journal_free_bytes": min(now[f'ringpost_journal_free_bytes{{shard="{shard}"}}'] for shard in shards),
        "resident_bytes": now["process_resident_memory_bytes"],
        "open_files": now["process_open_fds"],
        "open_files_max": now["process_max_fds"],
        "cpu_seconds": now["process_cpu_seconds_total"],
        "log_lines_suppressed_total": now["ringpost_log_lines_suppressed_total"],
    }
    for metric, name in ((REJECTED, "rejected"), (CLOSED, "closed")):
        for reason in re.findall(metric + r'{reason="(\w+)"}', "\n".join(now)):
            if name == "rejected" or total(metric, reason=reason):
                out[f"{name}_{reason}_total"] = total(metric, reason=reason)
                out[f"{name}_{reason}_per_second"] = rate(metric, reason=reason)
    for shard in shards:
        of = lambda metric: now[f'ringpost_{metric}{{shard="{shard}"}}']
        more = {
            "connections": of("connections_open"),
            "requests_per_second": rate("ringpost_requests_total", shard=shard),
            "heartbeats_per_second": rate("ringpost_heartbeats_total", shard=shard),
            "buffer_bytes": of("buffer_bytes"),
            "buffer_limit_bytes": of("buffer_limit_bytes"),
            "memory_waits_total": of("memory_waits_total"),
            "records_per_second": rate("ringpost_journal_records_total", shard=shard),
            "gathered_bytes": of("journal_gathered_bytes"),
            "in_flight_bytes": of("journal_in_flight_bytes"),
            "oldest_unsynced_seconds": of("journal_oldest_unsynced_seconds"),
            "condition": of("journal_condition"),
        }
        out.update({f"shard_{shard}_{name}": value for name, value in more.items()})
    return out


def quantile(now, before, histogram, share):
    """Returns a quantile as Prometheus computes it, with linear interpolation within a bucket."""
    bounds = [(float(bound), now[series] - before[series]) for series in now
              for bound in re.findall(rf'^{histogram}_bucket{{le="([^"]+)"}}', series)]
    rank, below = bounds[-1][1] * share, (0.0, 0.0)
    if rank == 0:
        return None
    for bound, count in bounds:
        if count >= rank:
            if math.isinf(bound):
                return below[0]
            return below[0] + (bound - below[0]) * (rank - below[1]) / (count - below[1])
        below = bound, count


def differs(figure, expected, value, text):
    """Returns how a figure of the page differs from the expected value, or None."""
    if expected is None:
        return None if (value, text) == ("", "–") else f"the value is unknown, but the page shows {text!r}"
    if isinstance(expected, str):
        return None if text == expected else f"expected {expected!r}, but the page shows {text!r}"
    if value == "" or not math.isclose(float(value), expected, rel_tol=1e-9, abs_tol=1e-6):
        return f"expected {expected}, but the page has {value!r}"
    if text in CONDITIONS:
        return None if CONDITIONS[int(expected)] == text else f"expected {expected}, but the page shows {text!r}"
    if text == "no limit":
        return None if expected == 0 else f"expected {expected}, but the page shows {text!r}"
    read, step = number(text)
    if figure == "uptime_seconds":
        # A time in two units is rounded down.
        return None if 0 <= expected - read < step else f"expected {expected}, but the page shows {text!r}"
    if abs(read - expected) <= step * 0.501:
        return None
    return f"expected {expected}, but the page shows {text!r}"


def number(text):
    """Returns the number in a text, and the value of its last digit's unit."""
    text = text.removesuffix("/s")
    parts = re.findall(r"([\d,]+(?:\.\d+)?)(?: (\D+?))?(?= |$)", text)
    assert parts, f"{text!r} contains no number"
    value = sum(float(digits.replace(",", "")) * UNITS[unit] for digits, unit in parts)
    digits, unit = parts[-1]
    return value, UNITS[unit] * 10.0 ** -len(digits.partition(".")[2])


def misdrawn(chart, expected):
    """Returns the lines of a chart whose last point is not at the figure's place on the axis."""
    ticks = sorted(((y, number(text)[0]) for y, text in chart["ticks"]), reverse=True)
    log = ticks[0][1] > 0
    scale = (lambda value: math.log10(max(value, ticks[0][1]))) if log else (lambda value: value)
    (low_y, low), (high_y, high) = ticks[0], ticks[-1]
    wrong = []
    for figure, path in chart["lines"]:
        if expected[figure] is None:
            continue
        end = re.search(r"([\d.]+) ([\d.]+)(?:h\.01)?$", path)
        y = low_y - (scale(expected[figure]) - scale(low)) / (scale(high) - scale(low)) * (low_y - high_y)
        if not end or abs(float(end[2]) - y) > 1:
            wrong.append(f"{chart['name']}: {figure} is {expected[figure]}, drawn at {end and end[2]}, not {y:.1f}")
    return wrong
