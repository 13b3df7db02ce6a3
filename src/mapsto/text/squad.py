"""Read questions on passages in SQuAD's JSON format (Rajpurkar et al. 2016, 2018), as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

COLUMNS = ("question", "passage", "answer", "id")


def is_squad(value: Any) -> bool:
    """Return whether the content of a JSON file is {"data": [{"paragraphs": [...]}, …]}."""
    articles = value.get("data") if isinstance(value, dict) else None
    return (
        isinstance(articles, list)
        and bool(articles)
        and all(isinstance(article, dict) and isinstance(article.get("paragraphs"), list) for article in articles)
    )


def squad_rows(value: dict[str, Any]) -> Iterator[Any]:
    """Yield a row {"question", "passage", "answer", "id"} for each question; what is no question or passage as it is.

    The answer is {"text": […], "answer_start": […]}, with empty lists for a question that the passage does not answer. A question
    without a list of answers, as in a test set, has None.
    """
    for article in value["data"]:
        for paragraph in article["paragraphs"]:
            questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
            for question in questions if isinstance(questions, list) else [paragraph]:
                if isinstance(question, dict) and "question" in question:
                    cells = (question["question"], paragraph.get("context"), _answer(question), question.get("id"))
                    yield dict(zip(COLUMNS, cells, strict=True))
                else:
                    yield question


def _answer(question: dict[str, Any]) -> dict[str, Any] | None:
    """Return the answers of a question as a dict of lists; None if it has no list of answers."""
    answers = [] if question.get("is_impossible") else question.get("answers")
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        return None
    return {
        "text": [answer.get("text") for answer in answers],
        "answer_start": [answer.get("answer_start") for answer in answers],
    }
