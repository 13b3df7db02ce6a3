"""The verdict of a comparison agrees with planted scores: significant, not significant, worse, and one draw of labels."""

from __future__ import annotations

import math

import pytest

from mapsto.comparison.analysis import Comparison, Cost, CurvePoint, Recommendation
from mapsto.comparison.verdict import answer_questions, describe_recommendation, key_figures, score_picture
from mapsto.metrics.intervals import Score

NAMES = ("TF-IDF, linear", "基座 <b>, full")


def compare(start: float, gain: tuple[float, float, float] | None) -> Comparison:
    """Return a comparison of a linear baseline that scores 0.7 with a start. gain: over the baseline, with its interval."""
    scores = dict(zip(NAMES, (0.7, start), strict=True))
    curves = {
        name: [CurvePoint(count, Score(value, value - 0.02, value + 0.02, 200), {}, {}, {}, Cost(1.0, 0, None))]
        for name, value in scores.items()
        for count in (256,)
    }
    score = None if gain is None else Score(*gain, 200)
    best = max(scores, key=lambda name: scores[name])
    advice = Recommendation(256, best, NAMES[0], score, None, None)
    return Comparison("text -> label", "accuracy", 200, 3, 256, curves, [], [], [], [advice])


@pytest.mark.parametrize(
    ("start", "gain", "taken", "words"),
    [
        (0.8, (0.1, 0.05, 0.15), NAMES[1], "accuracy 80.0 %, significantly better than the simple baseline"),
        (
            0.72,
            (0.02, -0.01, 0.05),
            NAMES[0],
            "take the simple baseline (TF-IDF, linear, accuracy 70.0 %): no method is",
        ),
        (0.6, None, NAMES[0], "take the simple baseline (TF-IDF, linear): it scores highest, accuracy 70.0 %"),
        (0.8, (0.1, math.nan, math.nan), NAMES[1], "one draw of labels cannot show whether that is significant"),
    ],
)
def test_what_to_take_with_your_labels(
    start: float, gain: tuple[float, float, float] | None, taken: str, words: str
) -> None:
    comparison = compare(start, gain)
    verdict = describe_recommendation(comparison)
    assert verdict.startswith("With your 256 labels ") and words in verdict
    assert comparison.recommendations[-1].candidate == taken
    content = score_picture(comparison).content
    assert content.count('class="dot"') == 2 and "&lt;b&gt;" in content and "<b>" not in content
    assert content.count('class="name best"') == 1
    (figure,) = key_figures(comparison)
    assert figure.value == ("70.0 %" if gain is None else f"{100 * gain[0]:+.1f} points")
    assert dict(answer_questions(comparison)).keys() == {"What would make it better?"}
