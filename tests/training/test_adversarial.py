"""The adversarial loss: predicted images against a discriminator that is trained at the same time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("PIL", reason="the extra [image] is not here")


from images import IMAGE_PAIRS, SMALL_OPTIONS, check_judged_one_by_one
from mappings import small_mapping

import mapsto
from mapsto.errors import UsageError
from mapsto.sequence.packing import collate
from mapsto.training.objectives.adversarial import AdversarialLoss
from mapsto.training.objectives.image_losses import ImageObjective


@pytest.mark.parametrize("has_real_image", [True, False])
def test_packed_images_have_the_sum_of_their_losses(has_real_image: bool) -> None:
    """Both beside their source, and against crops of one image (here of a single colour)."""
    mapping, examples = small_mapping("image:image -> clean:image")
    torch.nn.init.normal_(mapping.heads[0].weight, std=0.02)
    check_judged_one_by_one(
        AdversarialLoss(mapping, 0.5, torch.full((3, 14, 40), 0.5) if has_real_image else None), mapping, examples
    )


def test_each_loss_has_gradients_for_its_own_network_alone() -> None:
    """The weight of the mapping's loss changes no gradient of the discriminator; at 0 the mapping has none."""
    mapping, examples = small_mapping("image:image -> clean:image")
    judge, batch = AdversarialLoss(mapping, 0.0), collate([examples.example(0, 0, 0.0)])
    objective, gradients = ImageObjective(mapping, [judge], with_pixel_loss=False), []
    for judge.weight in (0.0, 1.0):
        mapping.zero_grad()
        for _, loss in objective.losses(mapping, batch):
            loss.backward()
        gradients.append({name: p.grad.clone() for name, p in mapping.named_parameters() if p.grad is not None})
    one, other = gradients
    names = [name for name in one if name.startswith("discriminator.")]
    assert len(names) == 8 and all(torch.equal(one[name], other[name]) for name in names)
    assert not one["heads.0.weight"].any() and other["heads.0.weight"].any()


@pytest.mark.parametrize(
    ("arrow", "given", "message"),
    [
        ("image -> label", {"adversarial": 0.1}, "predict one image"),
        ("~image:image -> image", {"adversarial": 0.1}, "predict one image"),
        ("image:image -> clean:image", {"adversarial": -1.0}, "at least 0"),
    ],
)
def test_unsuitable_arrows_are_errors(arrow: str, given: dict[str, Any], message: str) -> None:
    rows = [{**row, "label": "ab"[i % 2]} for i, row in enumerate(IMAGE_PAIRS)]
    with pytest.raises(UsageError, match=message):
        (mapsto.pretrain if "~" in arrow else mapsto.fit)(arrow, rows, steps=1, **given, **SMALL_OPTIONS)


def test_the_discriminator_is_not_saved(tmp_path: Path) -> None:
    plain = mapsto.fit("image:image -> clean:image", IMAGE_PAIRS, steps=4, **SMALL_OPTIONS)
    deceiving = mapsto.fit(
        "image:image -> clean:image", IMAGE_PAIRS, tmp_path / "run", steps=4, adversarial=0.5, **SMALL_OPTIONS
    )
    names = [[name for name, _ in model.mapping.named_parameters()] for model in (plain, deceiving)]
    assert names[0] == names[1]
    weights = [model.mapping.heads[0].weight for model in (plain, deceiving)]
    assert not torch.equal(*weights)
    answer = mapsto.load(tmp_path / "run").predict([IMAGE_PAIRS[0]["image"]])[0]["image"]
    assert answer.shape == (16, 16, 3)
