// The service's figures of the last seconds, from the counters of /metrics.

// Sums of one moment: {requests, batches, rows, buckets: Map(le -> requests), shadows: {...}}.
export function read(text) {
  const sums = { requests: 0, batches: 0, rows: 0, buckets: new Map(), shadows: {} };
  for (const line of text.split("\n")) {
    if (!line.startsWith("foveal_")) continue;
    const name = line.match(/^\w+/)[0];
    const value = Number(line.slice(line.lastIndexOf(" ")));
    if (name === "foveal_requests_total") sums.requests += value;
    else if (name === "foveal_batch_rows_count") sums.batches += value;
    else if (name === "foveal_batch_rows_sum") sums.rows += value;
    else if (name === "foveal_request_seconds_bucket") {
      const le = Number(line.match(/le="([^"]+)"/)[1].replace("+Inf", "Infinity"));
      sums.buckets.set(le, (sums.buckets.get(le) ?? 0) + value);
    } else if (name === "foveal_shadow_rows_total") {
      const label = (wanted) => line.match(new RegExp(`[{,]${wanted}="((?:[^"\\\\]|\\\\.)*)"`))?.[1] ?? "";
      const counts = (sums.shadows[`${label("model")}:${label("version")}`] ??= {});
      counts[label("outcome")] = (counts[label("outcome")] ?? 0) + value;
    }
  }
  return sums;
}

// The latency below which a share of requests stayed, seconds, as Prometheus' histogram_quantile.
export function quantile(share, buckets) {
  const bounds = [...buckets].sort((a, b) => a[0] - b[0]);
  const all = bounds.at(-1)?.[1] ?? 0;
  if (!(all > 0)) return NaN;
  let [low, below] = [0, 0];
  for (const [bound, upTo] of bounds) {
    if (upTo >= share * all) {
      return bound === Infinity ? low : low + ((bound - low) * (share * all - below)) / (upTo - below || 1);
    }
    [low, below] = [bound, upTo];
  }
  return low;
}

// What happened between two moments, NaN where nothing did.
export function between(before, after, seconds) {
  const buckets = new Map([...after.buckets].map(([le, value]) => [le, value - (before.buckets.get(le) ?? 0)]));
  const batches = after.batches - before.batches;
  return {
    rate: Math.max(0, after.requests - before.requests) / seconds, // a restart begins at 0
    p99: quantile(0.99, buckets),
    batch: batches > 0 ? (after.rows - before.rows) / batches : NaN,
  };
}
