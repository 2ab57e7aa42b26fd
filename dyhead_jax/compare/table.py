"""The table of a comparison: numbers over seeds, as JSON and as Markdown."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dyhead_jax.compare.candidates import Candidate
from dyhead_jax.compare.results import Result
from dyhead_jax.measure import tables
from dyhead_jax.measure.cost import Cost
from dyhead_jax.measure.timing import GIB

BY_SEED = Mapping[int, Result]  # only of finished runs


@dataclasses.dataclass(frozen=True)
class Row:
    """A candidate over its finished seeds; NaN where there is none.

    ap, ap50, by_size: means, the last of small, medium and large objects, NaN for a size that no held-out object has.
    sd: sample standard deviation of AP, NaN with one seed. low, high: of AP. gain: AP minus that of its baseline with
    the same seed, mean, lowest and highest over the seeds that both have finished; None for a baseline itself and where
    there is no such seed. step_seconds, host_bytes, device_bytes, seconds: medians, so that with three seeds that of
    the first, which compiles, does not count. parameters, multiply_adds: as `benchmark cost` counts them.
    """

    name: str
    baseline: str
    finished: tuple[int, ...]
    failed: tuple[int, ...]
    ap: float
    sd: float
    low: float
    high: float
    gain: tuple[float, float, float] | None
    ap50: float
    by_size: tuple[float, float, float]
    parameters: int
    multiply_adds: int
    step_seconds: float
    host_bytes: float | None
    device_bytes: float | None
    seconds: float


def rows(
    candidates: Sequence[Candidate],
    results: Mapping[str, BY_SEED],
    failed: Mapping[str, Sequence[int]],
    costs: Mapping[str, Cost],
) -> list[Row]:
    """One for each candidate, in their order; the mappings are by its name."""
    return [
        _row(one, results[one.name], results[one.baseline], failed[one.name], costs[one.name]) for one in candidates
    ]


def _row(candidate: Candidate, results: BY_SEED, baseline: BY_SEED, failed: Sequence[int], cost: Cost) -> Row:
    found = list(results.values())
    aps = [result.scores["AP"] for result in found]
    gains = []
    if candidate.name != candidate.baseline:
        gains = [results[seed].scores["AP"] - baseline[seed].scores["AP"] for seed in results if seed in baseline]
    device = [result.device_bytes for result in found if result.device_bytes is not None]
    return Row(
        name=candidate.name,
        baseline=candidate.baseline,
        finished=tuple(results),
        failed=tuple(failed),
        ap=_mean(aps),
        sd=statistics.stdev(aps) if len(aps) > 1 else math.nan,
        low=min(aps, default=math.nan),
        high=max(aps, default=math.nan),
        gain=(_mean(gains), min(gains), max(gains)) if gains else None,
        ap50=_mean([result.scores["AP50"] for result in found]),
        by_size=(_of_size(found, "APs"), _of_size(found, "APm"), _of_size(found, "APl")),
        parameters=sum(cost.parameters.values()),
        multiply_adds=sum(cost.multiply_adds.values()),
        step_seconds=statistics.median(result.step_seconds for result in found) if found else math.nan,
        host_bytes=statistics.median(result.host_bytes for result in found) if found else None,
        device_bytes=statistics.median(device) if found and len(device) == len(found) else None,
        seconds=statistics.median(result.seconds for result in found) if found else math.nan,
    )


def markdown(table: Sequence[Row], seeds: int) -> str:
    """The table alone. seeds: how many each row is to have."""
    on_device = any(row.device_bytes is not None for row in table)
    baselines = {row.baseline for row in table}
    over = f"`{table[0].baseline}`" if len(baselines) == 1 else "the first of its group"
    memory = "device memory, GiB" if on_device else "process memory, GiB"
    lines = tables.header(
        "config", "AP", "sd", "range", f"gain over {over}, seed by seed", "AP50", "small, medium, large",
        "parameters, M", "multiply-adds, G", "step, ms", memory, "seconds",
    )  # fmt: skip
    for row in table:
        held = row.device_bytes if on_device else row.host_bytes
        gain = ""
        if row.gain is not None:
            mean, low, high = row.gain
            gain = f"{mean:+.3f}" + (f" ({low:+.3f} to {high:+.3f})" if low != high else "")
        lines.append(
            tables.row(
                f"`{row.name}`{_state(row, seeds)}",
                _number(row.ap, ".3f"),
                _number(row.sd, ".3f"),
                f"{row.low:.3f} to {row.high:.3f}" if len(row.finished) > 1 else "",
                gain,
                _number(row.ap50, ".3f"),
                ", ".join(_number(ap, ".3f") or "none" for ap in row.by_size) if row.finished else "",
                _amount(row.parameters / 1e6),
                _amount(row.multiply_adds / 1e9),
                _number(1e3 * row.step_seconds, ".0f" if row.step_seconds >= 0.1 else ".1f"),
                "" if held is None else f"{held / GIB:.2f}",
                _number(row.seconds, ".0f"),
            )
        )
    return "\n".join(lines)


def as_json(table: Sequence[Row], results: Mapping[str, BY_SEED]) -> list[dict[str, Any]]:
    """Each row with the numbers of every seed; what is not known is null."""
    found = []
    for row in table:
        by_seed = {
            str(seed): {**dataclasses.asdict(result), "curve": result.curve.tolist()}
            for seed, result in results[row.name].items()
        }
        found.append(_finite({**dataclasses.asdict(row), "seeds": by_seed}))
    return found


def _state(row: Row, seeds: int) -> str:
    """What of its seeds is missing."""
    missing = [f"seed {seed} failed" for seed in row.failed]
    if len(row.finished) < seeds:
        missing.insert(0, f"{len(row.finished)} of {seeds} seeds")
    return f" ({', '.join(missing)})" if missing else ""


def _of_size(found: Sequence[Result], key: str) -> float:
    """NaN where pycocotools says by -1 that there is nothing to find."""
    aps = [result.scores[key] for result in found]
    return math.nan if -1 in aps else _mean(aps)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _amount(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _finite(tree: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
