"""Familiarity: the share of reference distances above a value's own, and what `predict` makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import run, sentences

import mapsto
from mapsto import files
from mapsto.data.table import read_table, write_rows
from mapsto.errors import CheckpointError, UsageError
from mapsto.inference.predictor import Predictor
from mapsto.model.familiarity import MAX_DISTANCES, MAX_ROWS, Familiarity, summarise
from mapsto.pretrained.model_folder import FAMILIARITY_FILE, MANIFEST_FILE
from mapsto.text.ngram_source import SKETCH_WIDTH


def vectors(count: int, seed: int = 0, width: int = 16) -> np.ndarray:
    """Return random vectors that point about into one direction."""
    return (np.random.default_rng(seed).normal(size=(count, width)) * 0.1 + np.eye(width)[0]).astype(np.float32)


def test_rows_like_the_training_rows_are_uniformly_familiar_and_others_not_at_all() -> None:
    familiarity = Familiarity.of_rows(vectors(2000), seed=0)
    assert familiarity is not None
    ordinary = familiarity.score(torch.from_numpy(vectors(2000, seed=1)))
    # One more neighbour to choose from than the rows themselves have, which 2,000 rows do not show.
    for share in (0.05, 0.25, 0.5, 0.75):
        assert abs(float((ordinary < share).float().mean()) - share) < 0.05
    foreign = familiarity.score(-torch.from_numpy(vectors(50, seed=2)))
    assert (foreign == 0).all() and ordinary.min() >= 0 and ordinary.max() <= 1
    # The length of a vector does not count, and a training row is as near as can be.
    some = torch.from_numpy(vectors(5, seed=3))
    assert torch.equal(familiarity.score(some), familiarity.score(some * 7))
    assert (familiarity.score(torch.from_numpy(vectors(2000)[:10])) == 1).all()


def test_a_score_is_the_share_of_larger_reference_distances() -> None:
    familiarity = Familiarity(torch.eye(2).half(), torch.tensor([0.0, 0.1, 0.2, 0.3]))
    angle = np.arccos(1 - 0.15)
    near = torch.tensor([[np.cos(angle), np.sin(angle)]], dtype=torch.float32)
    # The nearest of both axes counts.
    assert familiarity.distance(near).item() == pytest.approx(0.15, abs=1e-3)
    assert familiarity.score(near).item() == 0.5
    assert familiarity.with_distances([0.9, 0.8]).score(near).item() == 1.0


def test_of_many_rows_a_sample_is_kept_and_of_one_row_nothing() -> None:
    many = Familiarity.of_rows(vectors(MAX_ROWS + 500, width=4), seed=0)
    assert many is not None and len(many.vectors) == MAX_ROWS and len(many.distances) == MAX_DISTANCES
    assert Familiarity.of_rows(vectors(1), seed=0) is None
    assert summarise([]) == [] and summarise([3.0, 1.0, 2.0]) == [1.0, 2.0, 3.0]


def test_predict_gives_the_familiarity_and_rejects_unfamiliar_rows(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(120)]
    clf = mapsto.fit("text -> label", rows, tmp_path / "clf", layers=1, width=64, vocabulary=300, steps=3)
    texts = [row["text"] for row in rows]
    new = [*sentences(60, seed=5), "0", "@@@@ §§§§ @@@@"]
    familiar = [answer["familiar"] for answer in clf.predict(new)]
    # Training rows are in the model's memory; short strange ones are farther from them.
    assert np.mean([answer["familiar"] for answer in clf.predict(texts)]) > np.mean(familiar[:-2]) > max(familiar[-2:])
    opened = mapsto.load(tmp_path / "clf")
    assert [answer["familiar"] for answer in opened.predict(new)] == familiar
    write_rows(tmp_path / "new.csv", ["text"], [{"text": text} for text in new])
    asked = ["predict", str(tmp_path / "clf"), str(tmp_path / "new.csv")]
    process = run(*asked, "--reject", "0.2", "--out", str(tmp_path / "out.csv"))
    assert process.returncode == 0, process.stderr
    table = read_table(tmp_path / "out.csv")
    is_blank = [label is None for label in table.column("label")]
    assert is_blank == [value < 0.2 for value in familiar] and is_blank[-2:] == [True, True] and not all(is_blank)
    assert all(table.column("probability"))
    refused = run(*asked, "--reject", "5")
    assert refused.returncode == 2 and "from 0 to less than 1" in refused.stderr
    assert f"{sum(is_blank)} of {len(new)} answers are left blank" in process.stderr
    assert [answer["label"] is None for answer in opened.predict(new, reject=0.2)] == is_blank
    assert all(answer["label"] for answer in opened.predict(new))
    with pytest.raises(UsageError, match="from 0 to 1"):
        opened.predict(new, min_confidence=2)


@pytest.mark.parametrize("arrow", ["text -> tags", "question:text, text -> answer:span", "text -> de:text"])
def test_tags_spans_and_generated_texts_have_one_familiarity_a_row(arrow: str, tmp_path: Path) -> None:
    """Long rows too, which are read in windows: theirs is that of the mean of their windows."""
    rows = [
        {
            "text": text,
            "question": "which season ?",
            "tags": [{"start": 0, "end": len(text.split()[0]), "label": "first"}],
            "answer": text.split()[1],
            "de": text.split()[-1],
        }
        for text in sentences(80)
    ]
    size = {"layers": 1, "width": 64, "vocabulary": 300, "steps": 2, "length": 32}
    model = mapsto.fit(arrow, [*rows, {**rows[0], "text": " ".join(row["text"] for row in rows[:9])}], **size)
    new = [{**row, "text": text} for row, text in zip(rows, [*sentences(30, seed=5), "@@@@ §§§§ @@@@"], strict=False)]
    answers = model.predict(new)
    familiar = [answer["familiar"] for answer in answers]
    assert len(familiar) == len(new) and np.mean(familiar[:-1]) > familiar[-1]
    (target,) = model.mapping.targets
    withheld = model.predict(new, reject=0.2)
    assert [answer[target.kind] is None for answer in withheld] == [value < 0.2 for value in familiar]
    assert all(0 <= share <= 1 for share in familiar)
    long = {**new[0], "text": " ".join(row["text"] for row in rows[:9])}
    (together, alone) = (model.predict(table)[0]["familiar"] for table in ([long, *new], [long]))
    assert together == pytest.approx(alone, abs=0.03)
    model.save(tmp_path / "model")
    assert [answer["familiar"] for answer in mapsto.load(tmp_path / "model").predict(new)] == familiar


def test_a_text_without_a_known_ngram_is_as_far_as_can_be() -> None:
    familiarity = Familiarity.of_rows(vectors(20), seed=0)
    assert familiarity is not None
    assert familiarity.distance(torch.zeros(1, 16)).tolist() == [2.0] and familiarity.score(torch.zeros(1, 16)) == 0


def test_models_without_training_vectors_answer_without_and_cannot_reject() -> None:
    base = mapsto.pretrain("text", [{"text": text} for text in sentences(60)], layers=1, width=64, steps=2)
    assert base.mapping.familiarity is None
    with pytest.raises(UsageError, match="keeps none"):
        Predictor(base.mapping, reject=0.05)


def test_a_linear_model_knows_texts_whose_ngrams_it_has_not_seen(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(120)]
    linear = mapsto.fit("text -> label", rows, tmp_path / "linear", method="linear")
    new = [*sentences(60, seed=5), "完全不同的一句话", "@@@@ §§§§ @@@@"]
    familiar = [answer["familiar"] for answer in linear.predict(new)]
    assert max(familiar[-2:]) < 0.05 and np.mean(np.array(familiar[:-2]) < 0.05) < 0.2
    assert [answer["familiar"] for answer in linear.predict([row["text"] for row in rows])] == [1.0] * 120
    assert [answer["familiar"] for answer in mapsto.load(tmp_path / "linear").predict(new)] == familiar
    # Beside a sketch, the true cosines of TF-IDF.
    source = linear.mapping.sources["text"]
    pieces = source.encode(new[:60], 0)
    sketches, features = source.feature_vectors(pieces), source.features(pieces).toarray()
    assert np.abs(sketches @ sketches.T - features @ features.T).max() < 5 / SKETCH_WIDTH**0.5


def test_a_folder_of_an_earlier_version_opens_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(60)]
    mapsto.fit("text -> label", rows, tmp_path / "clf", layers=1, width=64, vocabulary=300, steps=2)
    file = tmp_path / "clf" / FAMILIARITY_FILE
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError):
        mapsto.load(tmp_path / "clf")
    file.unlink()
    manifest = json.loads((tmp_path / "clf" / MANIFEST_FILE).read_text())
    del manifest["files"][FAMILIARITY_FILE], manifest["sha256"]
    files.write_atomic(tmp_path / "clf" / MANIFEST_FILE, files.seal(manifest))
    assert "familiar" not in mapsto.load(tmp_path / "clf")("a winter day")
