"""Whether what is tested can learn: gradients of two blocks on noise."""

import numpy as np

from dyhead_jax.contract.subject import Broken, Path, Subject, largest

DRAWS = 3  # of weights: a ReLU may be off for all images of one draw
ROUNDING = 1e-6  # of the largest gradient: what is left where terms cancel, as for a bias before a softmax


def gradients(subject: Subject) -> str:
    """Every parameter has a gradient that is finite and, away from where the weights start, not all zero."""
    pyramid, reached, count = subject.pyramid(), set(), 0
    for seed in range(DRAWS):
        _, found = subject.run(subject.moved(seed), pyramid)
        count = len([path for path in found if subject.own(path)])
        for path, gradient in found.items():
            bad = int(gradient.size - (abs(gradient) < float("inf")).sum())
            if bad and subject.own(path):
                raise Broken(f"gradients are finite, but {bad} of {gradient.size} of {_name(path)} are not")
        reached |= {path for path in found if not _is_silent(found, path)}
        silent = [path for path in found if subject.own(path) and path not in reached]
        if not silent:
            return f"{count} arrays, all finite and not zero"
    raise Broken(f"every parameter gets a gradient, but that of {_names(silent)} is zero whatever the weights")


def dead(subject: Subject) -> str:
    """At the start some parameter of each attention has a gradient; those that have none are named."""
    _, found = subject.run(subject.initial, subject.pyramid())
    own = [path for path in found if subject.own(path)]
    silent = [path for path in own if _is_silent(found, path)]
    for group in sorted({path[:2] for path in own}):
        if all(path in silent for path in own if path[:2] == group):
            raise Broken(f"no parameter of {_name(group)} has a gradient at the start, so that none ever moves")
    return f"{len(silent)} of {len(own)} arrays have no gradient at the start" + (
        f": {_names(silent)}" if silent else ""
    )


def _is_silent(gradients: dict[Path, np.ndarray], path: Path) -> bool:
    return not largest(gradients[path]) > ROUNDING * largest(gradients)


def _name(path: Path) -> str:
    return "/".join(path)


def _names(paths: list[Path]) -> str:
    more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
    return ", ".join(map(_name, sorted(paths)[:4])) + more
