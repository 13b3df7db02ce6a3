"""Run the package setfit at its defaults: reads texts and labels as JSON from stdin, prints answers and seconds as JSON.

It is a process of its own because setfit needs other versions of packages. few_labels.py runs it with the Python of an
environment that has setfit: `python -m venv venv-setfit`, and there
`pip install setfit==1.1.3 "transformers<5" "sentence-transformers<5.2" "datasets<4.5" torch==2.13.0`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments
from transformers import set_seed


def main() -> None:
    given = json.load(sys.stdin)
    began = time.perf_counter()
    set_seed(given["seed"])
    model = SetFitModel.from_pretrained(given["start"], device="cpu", local_files_only=True)
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), num_iterations=20, seed=given["seed"], report_to="none", show_progress_bar=False
    )
    rows = Dataset.from_dict({"text": given["texts"], "label": given["labels"]})
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    answers = [str(answer) for answer in model.predict(given["asked"], show_progress_bar=False)]
    print(json.dumps({"answers": answers, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
