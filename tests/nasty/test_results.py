"""Every file of detections of the set: its AP, or one line that names the record."""

from pathlib import Path

import pytest

from tests.evaluation.test_evaluate import run_command
from tests.nasty.cases import FOLDER, RESULTS, there


def test_every_file_is_expected_here() -> None:
    assert {path.stem for path in there("results")} <= set(RESULTS)


@pytest.mark.parametrize("path", there("results"), ids=lambda path: path.stem)
def test_results(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    truth, reaction = FOLDER / "annotations" / "00_good.json", RESULTS[path.stem]
    code, out, err = run_command(monkeypatch, capsys, "--annotations", truth, "--detections", path)
    if isinstance(reaction, str):
        assert code == 1
        assert err.startswith(f"error: {path}: {reaction}")
        assert err.count("\n") == 1
    else:
        assert code == 0
        assert out.splitlines()[-1].startswith(f"AP {reaction:.4f} AP50")
