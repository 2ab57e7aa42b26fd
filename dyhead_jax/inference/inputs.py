"""The pictures and videos behind the files, folders and patterns that somebody names."""

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dyhead_jax import command
from dyhead_jax.data import images

VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
LISTING = "images.json"  # written beside the pictures with boxes; its "pictures" names them


class PredictError(ValueError):
    """The inputs cannot be predicted; the message names the file, folder or pattern."""


@dataclass
class Inputs:
    """Image and video files in order, each once, and what was left out: kind -> number."""

    paths: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def find(inputs: Iterable[str | Path]) -> Inputs:
    """The image and video files in a list of files, folders and patterns, in the given order.

    A folder stands for the image files in it and its sub-folders, sorted by path; a pattern (*, ?, [a-z], and ** for
    any sub-folders) for the image and video files that match, sorted; a file is taken whatever its suffix. Left out,
    and counted: folders and patterns without a picture, and in others pictures that an earlier prediction drew (see
    LISTING), videos (of folders), what is hidden, links to folders and files of other kinds. A file that does not exist
    is kept, and reported when it is read. Raises PredictError where there is no picture at all, and for a video that is
    a pipe.
    """
    found = Inputs()
    seen: set[Path] = set()
    drawn: dict[Path, set[str]] = {}
    empty = []
    for item in map(command.path, inputs):
        pattern = not item.exists() and glob.has_magic(str(item))
        if item.is_dir():
            files, suffixes = _walk(item, found.left_out), images.SUFFIXES
        elif pattern:
            matches = [Path(match) for match in sorted(glob.glob(str(item), recursive=True))]
            files, suffixes = [match for match in matches if not match.is_dir()], images.SUFFIXES + VIDEOS
        else:
            files, suffixes = None, ()
        if is_video(item) and item.exists() and not item.is_file():
            raise PredictError(f"{item}: is no file, but a folder, pipe or device")
        chosen = [item] if files is None else list(_chosen(files, suffixes, drawn, found.left_out))
        if not chosen:
            where = "matches no picture" if pattern else "no image in this folder"
            empty.append(f"{item}: {where} ({', '.join(suffixes)})")
        for path in chosen:
            if command.real(path) not in seen:
                seen.add(command.real(path))
                found.paths.append(path)
    if empty and not found.paths:
        others = "".join(f"; left out: {number} {kind}" for kind, number in found.left_out.items())
        more = f"; nor in {len(empty) - 1} others" if len(empty) > 1 else ""
        raise PredictError(empty[0] + more + others)
    if empty:
        found.left_out[f"inputs without a picture ({', '.join(text.partition(': ')[0] for text in empty)})"] = len(
            empty
        )
    return found


def drawn_before(folder: Path) -> set[str]:
    """The names of the pictures with boxes that predictions wrote into a folder, by its LISTING."""
    listing = _read_listing(folder)
    names = listing.get("pictures", [])
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def is_listed(folder: Path) -> bool:
    """Whether a prediction wrote into a folder."""
    return "pictures" in _read_listing(folder)


def _read_listing(folder: Path) -> dict[str, Any]:
    try:
        listing = json.loads(images.read_file(folder / LISTING))
    except (OSError, ValueError, RecursionError):
        return {}
    return listing if isinstance(listing, dict) else {}


def _walk(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        left_out[f"folders that cannot be read ({error.filename})"] += 1

    for root, folders, files in os.walk(folder, onerror=unreadable):
        shown = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in shown if os.path.islink(os.path.join(root, name))]  # may lead in a circle
        for kind, count in (("hidden folders", len(folders) - len(shown)), ("links to folders", len(links))):
            if count:
                left_out[kind] += count
        folders[:] = shown
        yield from (Path(root, name) for name in sorted(files))


def _chosen(
    files: Iterable[Path], suffixes: tuple[str, ...], drawn: dict[Path, set[str]], left_out: Counter[str]
) -> Iterator[Path]:
    for path in files:
        if path.parent not in drawn:
            drawn[path.parent] = drawn_before(path.parent)
        if path.name in drawn[path.parent]:
            left_out["drawn by an earlier prediction"] += 1
        elif path.name.startswith(".") or not path.is_file():
            left_out["hidden, or no file"] += 1
        elif path.suffix.lower() in suffixes:
            yield path
        elif is_video(path):
            left_out["videos in folders (name a video to have it predicted)"] += 1
        else:
            left_out["of other kinds"] += 1
