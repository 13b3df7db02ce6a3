"""Images as answers: the hidden patches of `~image`, or an image computed from the source image.

Legend of shapes: n examples, m answered patches, f bytes of a patch, p side of a patch, h rows, w columns of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.metrics.image_similarity import psnr, ssim
from mapsto.metrics.intervals import mean_score
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import FileBacked
from mapsto.task.readout import PerToken, ask_at
from mapsto.task.source import Source
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import Comparable, Located
from mapsto.vision import image_io, image_value
from mapsto.vision.image_value import THUMBNAIL, ImageValue
from mapsto.vision.patch_embedding import HEADER_BYTES, iterate_grids
from mapsto.vision.patch_reconstruction import MaskedPatches
from mapsto.vision.patch_source import STANDARDISED, PatchSource
from mapsto.vision.pixels import Pixels
from mapsto.vision.resize import join_patches, resample_box, split_patches


class MaskedImageTarget(MaskedPatches):
    """The target of the hidden patches of `~image`: a head predicts their pixels."""

    kind = "image"
    hub_tasks: ClassVar[Mapping[str, str]] = {
        "~image": "image-feature-extraction",
        "image": "image-feature-extraction",
    }

    samples = staticmethod(image_value.sample_images)
    fits = staticmethod(image_value.fits_images)
    read = staticmethod(image_value.read_image)

    @staticmethod
    def file(value: Pixels) -> tuple[str, bytes] | None:
        """Return ".png" and the content of the PNG file in which an image is saved whose hidden patches were predicted."""
        return ".png", image_io.encode_png(value)


class ImageToImageTarget(MaskedImageTarget, FileBacked, Located, Comparable):
    """The target of an image computed from the source image, patch by patch and in the source's size.

    The head predicts how each patch differs from the source's patch. So it need not learn to copy unchanged parts, and fine
    details need not pass through the hidden states, which are narrower than a patch.
    """

    lies_in = "image"
    resembles = True
    suffixes = image_io.IMAGE_SUFFIXES
    readout = PerToken("places")
    head_name = ""
    hub_tasks: ClassVar[Mapping[str, str]] = {"image": "image-to-image"}
    primary_metric = "ssim"
    unbounded_metrics = ("psnr", "psnr_unchanged", "psnr_gained")

    def __init__(self) -> None:
        """Create a target without settings of its own; `bind` takes them from the image source."""

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Take the patch size and the mean and deviation of pixels from the arrow's image source.

        Raises UsageError if the arrow has no image source, or if a convolutional network reads its images whole.
        """
        super().bind(sources, transform)
        self.scale = STANDARDISED  # a patch's own mean and deviation are part of the answer

    key = staticmethod(PatchSource.key)

    def encode(self, answer: ImageValue, pieces: Sequence[Piece]) -> Answer:
        """Return the answer at the source's m patches. Its values, (m, 2, f) in bytes, are the true patch and the source's patch.

        The answer is stretched to the source's size. If augmentation cropped or mirrored the source, so is the answer.
        """
        piece, places = self._find_image(pieces)
        # Augmentation may have cropped or mirrored the source; the answer is cut to the part that is left.
        assert piece.alignment is not None and piece.alignment.whole is not None
        first, last = piece.alignment.ends(piece.positions)
        begin, end = piece.alignment.whole.T
        scale = np.array([answer.height, answer.width]) / (end - begin)
        box = np.stack([(first - begin) * scale, (last - begin) * scale], axis=1)
        p, grid = self.source.resizer.patch, self.source.grid(piece)
        truth = resample_box(answer.pixels, box, (grid[0] * p, grid[1] * p), self.source.resizer.filter)
        source = piece.tokens[~piece.special, HEADER_BYTES:]
        return Answer(np.stack([split_patches(truth, p), source], axis=1), places)

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an Answer that names the tokens of all source patches without values, so that the head predicts each patch."""
        return ask_at(self._find_image(pieces)[1])

    def _find_image(self, pieces: Sequence[Piece]) -> tuple[Piece, Ints]:
        """Return the source image's piece, and the indices (m,) of its patches among all tokens of the example.

        pieces: the source pieces of the example.
        """
        (port,) = (port for port, piece in enumerate(pieces) if piece.kind == self.lies_in)
        return pieces[port], sum(map(len, pieces[:port])) + np.flatnonzero(~pieces[port].special)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map from hidden states (m, d) to differences (m, f) of pixels from the source's patch.

        It starts at zero, so that a new head predicts the unchanged source.
        """
        head = super().head(width, embedder)
        assert isinstance(head, nn.Linear)
        nn.init.zeros_(head.weight)
        return head

    def _add_source(self, output: Tensor, source: Tensor) -> Tensor:
        """Return the predicted pixels (m, f), standardised: the head's outputs (m, f) plus the source's patches.

        source: (m, f) bytes.
        """
        return output.float() + self._to_scale(source)

    def to_images(self, output: Tensor, values: Tensor, tokens: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return for each grid size a tuple of predicted, true and source images, (n, 3, h, w) each, with pixels from 0 to 1.

        Predicted images carry gradients and may leave that range.
        output: (m, f). values: (m, 2, f), encoded answers.
        tokens: (m, 5 + f), tokens of the answered patches, whose headers hold the grid size.
        """
        mean, std = (torch.tensor(v, device=values.device).view(3, 1, 1) for v in (self.source.mean, self.source.std))
        source, truth = (self._to_scale(values[:, index]) for index in (1, 0))
        p, images = self.source.resizer.patch, []
        for rows, columns, is_member in iterate_grids(tokens):
            grid = -1, rows, columns, p, p, 3
            by_image = (
                part[is_member].view(grid).permute(0, 5, 1, 3, 2, 4)
                for part in (output.float() + source, truth, source)
            )
            size = 3, rows * p, columns * p
            predicted, true, read = (part.reshape(len(part), *size) * std + mean for part in by_image)
            images.append((predicted, true, read))
        return images

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the squared error of standardised pixels, averaged over the pixels of each patch and summed over patches.

        output: (m, f), predicted differences from the source. values: (m, 2, f), encoded answers.
        """
        return ((self._add_source(output, values[:, 1]) - self._to_scale(values[:, 0])) ** 2).mean(-1).sum()

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the predicted, the true and the source's patches, in this order on axis 1, (m, 3, f) in bytes.

        They are what `by_example` computes scores from.
        output: (m, f), predicted differences from the source. values: (m, 2, f), encoded answers.
        """
        predicted = self._to_bytes(self._add_source(output, values[:, 1])).to(values.device)
        return torch.stack([predicted, values[:, 0], values[:, 1]], dim=1)

    def by_example(self, evidence: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return four scores for each example, (n, 4): PSNR and SSIM of the predicted image, then PSNR and SSIM of the source.

        Each score compares with the true image. evidence: (m, 3, f), from the method `evidence`.
        pieces: the source pieces of each example.
        """
        images, p = [self._find_image(example) for example in pieces], self.source.resizer.patch
        scores = []
        for (piece, _), part in zip(images, torch.split(evidence, [len(places) for _, places in images]), strict=True):
            patches = part.byte().numpy()
            predicted, truth, source = (join_patches(patches[:, i], self.source.grid(piece), p) for i in range(3))
            scores.append([metric(image, truth) for image in (predicted, source) for metric in (psnr, ssim)])
        return torch.tensor(scores)

    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Pixels:
        """Return the pixels (h, w, 3) of the predicted image, in the size to which the source was resized.

        hidden: (m,), indices of the patches in `piece`. output: (m, f), predicted differences from the source.
        """
        source = torch.from_numpy(piece.tokens[hidden, HEADER_BYTES:])
        return super().complete(value, piece, hidden, self._add_source(output.cpu(), source))

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"change": (p, p, 3)} for each patch: the predicted minus the source's pixels, on the scale from 0 to 255."""
        steps = output.float().cpu().view(-1, *self.source.block, 3) * torch.tensor(self.source.std) * 255
        return [{"change": patch.round().tolist()} for patch in steps]

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return the metrics "psnr" (dB) and "ssim" of predicted images, "psnr_unchanged" and "ssim_unchanged" of source images.

        The metric "psnr_gained" is the difference of the two PSNRs. Each metric is the mean over examples.
        output: (n, 4), from `by_example`.
        """
        psnr, ssim, source_psnr, source_ssim = output.double().numpy().T
        return {
            "psnr": (np.mean, psnr),
            "ssim": (mean_score, ssim),
            "psnr_unchanged": (np.mean, source_psnr),
            "ssim_unchanged": (mean_score, source_ssim),
            "psnr_gained": (np.mean, psnr - source_psnr),
        }

    def per_item_metric(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32] | None:
        """Return the SSIM (n,) of each predicted image. output: (n, 4), from `by_example`."""
        ssim: NDArray[np.float32] = output[:, 1].numpy().astype(np.float32)
        return ssim

    def baseline(self, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return no scores: no constant image is a sensible answer. `metrics` scores the unchanged source instead."""
        return {}

    def show(self, answer: Any) -> str:
        """Return a thumbnail of a predicted or true image as HTML."""
        pixels = answer.pixels if isinstance(answer, ImageValue) else answer
        return image_io.svg_image(pixels, THUMBNAIL, "a picture")

    def state(self) -> State:
        """Return an empty state, since all settings come from the source."""
        return {}
