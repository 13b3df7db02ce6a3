"""Scores of texts as answers, however they are answered: error rates of transcripts, chrF, BLEU, ROUGE-L and exact matches.

Legend of shapes: n answers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mapsto.metrics import generated_text, intervals, word_errors
from mapsto.metrics.intervals import Score
from mapsto.task.target import Metric
from mapsto.task.target_capabilities import Comparable, Confident, Free, Paired, Transcribed
from mapsto.text.pairs import faults
from mapsto.text.pairs.differences import find_differences, mark_runs
from mapsto.text.pairs.metric_tokens import BLEU_TOKENIZERS, choose_bleu_tokenizer, tokenize_words
from mapsto.text.transcripts import faults as transcript_faults

# The error rates of answers to sounds: their names, and how a text is split into what is compared.
ERROR_RATES = {
    "wer": word_errors.split_words,
    "wer_normalised": word_errors.split_normalised_words,
    "cer": word_errors.split_characters,
}

# Characters of a text in a table of a page.
MAX_SHOWN_CHARACTERS = 400


class ScoredTexts(Free, Comparable, Confident, Paired, Transcribed):
    """A target whose answers are texts, which are compared with the true texts."""

    primary_metric = "sentence_chrf"
    unbounded_metrics = ("bleu", "chrf", *ERROR_RATES)
    find_faults = staticmethod(faults.find_faults)
    find_transcript_faults = staticmethod(transcript_faults.find_faults)
    # Whether a source is a sound, which the answer may transcribe.
    is_spoken = False

    @property
    def field_metric(self) -> str | None:
        """Return the word error rate for answers to sounds; None for other texts."""
        return "wer" if self.is_spoken else None

    def describe_scores(self, scores: Mapping[str, Score]) -> str:
        """Return the word error rate of transcripts, else BLEU and chrF, in a clause."""
        if self.is_spoken:
            return f"{100 * scores['wer'].value:.1f} % of the words are wrong (word error rate)"
        return f"its texts reach BLEU {scores['bleu'].value:.1f} and chrF {scores['chrf'].value:.1f} of 100"

    @abstractmethod
    def texts(self, output: Tensor) -> list[str]:
        """Return the text of each answer. output: (n, …), as `metrics` takes it."""

    def describe_metrics(self, answers: Sequence[str]) -> str:
        """Return the settings of BLEU and chrF for these true answers, as sacrebleu writes them."""
        tokenizer = choose_bleu_tokenizer(answers)
        rates = "wer, cer as jiwer; wer_normalised ignores case and punctuation; " if self.is_spoken else ""
        return f"{rates}BLEU {generated_text.bleu_signature(tokenizer)}; chrF2 {generated_text.CHRF_SIGNATURE} (as sacrebleu)"

    def mark_differences(self, value: str, reference: str) -> tuple[str, str]:
        """Return an answer and the true text as HTML, with the words or characters marked that the other one lacks."""
        runs = find_differences(value, reference)
        answer, truth = (
            mark_runs(side, element, MAX_SHOWN_CHARACTERS) for side, element in zip(runs, ("del", "ins"), strict=True)
        )
        return answer, truth

    def correctness(self, output: Tensor, answers: Sequence[str]) -> NDArray[np.float32]:
        """Return the chrF2 score of each answer on its own, (n,), from 0 to 1."""
        return self.per_item_metric(output, answers)

    def metrics(self, output: Tensor, answers: Sequence[str]) -> dict[str, Metric]:
        """Return mean chrF2 of the answers (0 to 1), BLEU and chrF2 of the corpus (0 to 100), ROUGE-L, exact matches (0 to 1).

        Answers to sounds have word and character error rates too, which come first.
        """
        texts = self.texts(output)
        chrf_counts = generated_text.chrf_statistics(texts, answers)
        tokenize = BLEU_TOKENIZERS[choose_bleu_tokenizer(answers)]
        words = [list(map(tokenize_words, column)) for column in (texts, answers)]
        bleu_counts = generated_text.bleu_statistics(list(map(tokenize, texts)), list(map(tokenize, answers)))
        rates = {
            name: (word_errors.error_rate, word_errors.error_counts(texts, answers, split))
            for name, split in (ERROR_RATES.items() if self.is_spoken else ())
        }
        return rates | {
            self.primary_metric: (intervals.mean_score, generated_text.chrf_of_rows(chrf_counts) / 100),
            "bleu": (generated_text.bleu, bleu_counts),
            "chrf": (generated_text.chrf, chrf_counts),
            "rouge_l": (intervals.mean_score, generated_text.rouge_l(*words)),
            "exact_match": (intervals.mean_score, generated_text.exact_match(texts, answers)),
        }

    def per_item_metric(self, output: Tensor, answers: Sequence[str]) -> NDArray[np.float32]:
        """Return the chrF2 score of each answer on its own, (n,), from 0 to 1."""
        counts = generated_text.chrf_statistics(self.texts(output), answers)
        return (generated_text.chrf_of_rows(counts) / 100).astype(np.float32)

    def baseline(self, answers: Sequence[str]) -> dict[str, Metric]:
        """Return the share of answers that equal the commonest one."""
        ((commonest, _),) = Counter(answer.strip() for answer in answers).most_common(1)
        is_right = np.array([answer.strip() == commonest for answer in answers], np.float32)
        return {"exact_match": (intervals.mean_score, is_right)}
