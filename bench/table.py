"""Tables of a pass, for the terminal."""


def floor_seconds(one: dict, floor: dict[str, float]) -> float | None:
    """Seconds that the pass takes at least on the machine of ``floor``, by operations or by memory traffic."""
    least = [one[what] / floor[rate] for what, rate in (("flop", "flop_per_s"), ("bytes", "bytes_per_s")) if one[what]]
    return max(least, default=None)


def ratios(one: dict) -> dict[str, float]:
    """How many times faster than the baseline, the first provider, each one is; empty without a measured baseline."""
    baseline = one["providers"][0].get("median_s") if one["providers"] else None
    if baseline is None:
        return {}
    return {row["provider"]: baseline / row["median_s"] for row in one["providers"] if "median_s" in row}


def pass_table(one: dict, floor: dict[str, float]) -> str:
    """Every provider of a pass, a line each: times, speed relative to the baseline, memory, operators."""
    least, speed = floor_seconds(one, floor), ratios(one)
    unit = f"{one['unit']}/s" if one["unit"] else ""
    lines = [
        f"  {'provider':32} {'ms':>10} {'p10':>10} {'p90':>10} {'speed':>7} {'x floor':>8} {'peak MiB':>9} "
        f"{'alloc MiB':>10} {'operators':>9} {'error':>8} {unit:>12}"
    ]
    for row in one["providers"]:
        if "error" in row:
            lines.append(f"  {row['provider']:32} {row['error']}")
            continue
        times = " ".join(f"{1e3 * row[name]:10.4f}" for name in ("median_s", "p10_s", "p90_s"))
        ratio = f"{speed[row['provider']]:6.2f}x" if speed else ""
        over = f"{row['median_s'] / least:.2f}" if least else ""
        memory = f"{row['peak_bytes'] / 2**20:9.2f} {row['allocated_bytes'] / 2**20:10.2f}"
        operators = "" if row["operators"] is None else row["operators"]
        error = "" if row["relative_error"] is None else f"{row['relative_error']:.0e}"
        rate = f"{one['units'] / row['median_s']:,.0f}" if one["units"] else ""
        lines.append(
            f"  {row['provider']:32} {times} {ratio:>7} {over:>8} {memory} {operators:>9} {error:>8} {rate:>12}"
        )
    return "\n".join(lines)
