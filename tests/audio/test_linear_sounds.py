"""The linear model of sounds answers the same after it was saved, also of paths."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("soundfile", reason="the extra [sound] is not here")

import recordings

import mapsto


def test_a_saved_linear_model_answers_as_before(tmp_path: Path) -> None:
    folder = recordings.write_words(tmp_path / "recordings", each=8)
    fitted = mapsto.fit("sound -> label", folder, tmp_path / "run", method="linear")
    loaded = mapsto.load(tmp_path / "run")
    paths = sorted(folder.glob("*/*.wav"))
    answers = [answer["label"] for answer in loaded.predict(list(map(str, paths)))]
    assert answers == [answer["label"] for answer in fitted.predict(list(map(str, paths)))]
    assert loaded(paths[0])["label"] == answers[0]
    assert loaded.evaluate(folder).scores["accuracy"].value > 0.8
    assert len(loaded.explain([str(paths[0])])) == 1
