"""Pictures as answers: behind `~`, the hidden patches put back; and a picture made of the one that is read.

Legend of shapes: n examples, m patches that are told, f bytes of a patch, p pixels to its side, h rows, w columns of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.metrics.intervals import Score
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import Comparable, FileBacked, Located
from mapsto.task.readout import PerToken, ask_at
from mapsto.task.source import Source
from mapsto.task.target import Metric, State
from mapsto.vision import image_io, image_value, resize, similarity
from mapsto.vision.image_value import THUMBNAIL, Picture
from mapsto.vision.patch_embedding import PLACES, by_grid
from mapsto.vision.patch_reconstruction import PatchedTarget
from mapsto.vision.patch_source import ALL, PatchedSource, small
from mapsto.vision.pixels import Pixels


class ImageTarget(PatchedTarget):
    """The hidden patches of `~image`, read where they were hidden."""

    kind = "image"
    hub_tasks: ClassVar[Mapping[str, str]] = {
        "~image": "image-feature-extraction",
        "image": "image-feature-extraction",
    }

    samples = staticmethod(image_value.samples)
    fits = staticmethod(image_value.fits)
    read = staticmethod(image_value.read)

    @staticmethod
    def file(value: Pixels) -> tuple[str, bytes] | None:
        """A PNG."""
        return ".png", image_io.encode(value)


class PictureTarget(ImageTarget, FileBacked, Located, Comparable):
    """A picture made of the one that is read, patch by patch on its grid and in its size: what is told of each patch is how it
    differs from the source's own, so that what stays costs nothing and no detail goes through the narrow stack."""

    lies_in = "image"
    resembles = True
    suffixes = image_io.SUFFIXES
    readout = PerToken("places")
    head_name = ""
    hub_tasks: ClassVar[Mapping[str, str]] = {"image": "image-to-image"}
    primary_metric = "ssim"
    unbounded_metrics = ("psnr", "psnr_unchanged", "psnr_gained")

    def __init__(self) -> None:
        """Nothing is known but what the source says."""

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Take how pictures are read from the source. Raises UsageError where there is none."""
        super().bind(sources, transform)
        self.scale = ALL  # the mean and deviation of patches are part of what is told

    key = staticmethod(PatchedSource.key)

    def encode(self, answer: Picture, pieces: Sequence[Piece]) -> Answer:
        """(m, 2, f): for each patch of the source what of the answer, whatever its size, lies there; and the patch itself."""
        piece, at = self._among(pieces)
        assert piece.alignment is not None and piece.alignment.whole is not None
        first, last = piece.alignment.ends(piece.positions)
        begin, end = piece.alignment.whole.T
        scale = np.array([answer.height, answer.width]) / (end - begin)
        box = np.stack([(first - begin) * scale, (last - begin) * scale], axis=1)
        p, grid = self.source.frame.patch, self.source.grid(piece)
        truth = resize.seen(answer.pixels, box, (grid[0] * p, grid[1] * p), self.source.frame.filter)
        source = piece.tokens[~piece.special, PLACES:]
        return Answer(np.stack([resize.patches(truth, p), source], axis=1), at)

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Ask for all patches."""
        return ask_at(self._among(pieces)[1])

    def _among(self, pieces: Sequence[Piece]) -> tuple[Piece, Ints]:
        """The picture among the pieces of an example, and where its patches are, counted from the first token."""
        (port,) = (port for port, piece in enumerate(pieces) if piece.kind == self.lies_in)
        return pieces[port], sum(map(len, pieces[:port])) + np.flatnonzero(~pieces[port].special)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """A linear map to the pixels of a patch that begins at those of the source."""
        head = super().head(width, embedder)
        assert isinstance(head, nn.Linear)
        nn.init.zeros_(head.weight)
        return head

    def _told(self, output: Tensor, source: Tensor) -> Tensor:
        """What outputs (m, f) make of the patches of a source (m, f)."""
        return output.float() + self._seen(source)

    def drawn(self, output: Tensor, values: Tensor, tokens: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each shape that there is, what is said, what is true and the source, pictures (n, 3, h, w) from 0 to 1; the first
        with gradients, and not cut off at black and white. tokens: (m, 5 + f), those of the patches read."""
        mean, std = (torch.tensor(v, device=values.device).view(3, 1, 1) for v in (self.source.mean, self.source.std))
        source, truth = (self._seen(values[:, which]) for which in (1, 0))
        p, found = self.source.frame.patch, []
        for rows, columns, here in by_grid(tokens):
            grid = -1, rows, columns, p, p, 3
            laid = (
                part[here].view(grid).permute(0, 5, 1, 3, 2, 4) for part in (output.float() + source, truth, source)
            )
            said, true, read = (part.reshape(len(part), 3, rows * p, columns * p) * std + mean for part in laid)
            found.append((said, true, read))
        return found

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """The mean squared error over the pixels of each patch, summed over patches."""
        return ((self._told(output, values[:, 1]) - self._seen(values[:, 0])) ** 2).mean(-1).sum()

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """(m, 3, f) of bytes: what is said, what is true, and the source."""
        said = self._bytes(self._told(output, values[:, 1])).to(values.device)
        return torch.stack([said, values[:, 0], values[:, 1]], dim=1)

    def by_example(self, evidence: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """(n, 4): how like what is true the answer is, and the source unchanged, each by PSNR and SSIM."""
        read, p = [self._among(one) for one in pieces], self.source.frame.patch
        found = []
        for (piece, _), part in zip(read, torch.split(evidence, [len(at) for _, at in read]), strict=True):
            patches = part.byte().numpy()
            said, truth, source = (resize.joined(patches[:, i], self.source.grid(piece), p) for i in range(3))
            found.append([of(one, truth) for one in (said, source) for of in (similarity.psnr, similarity.ssim)])
        return torch.tensor(found)

    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Pixels:
        """The pixels (h, w, 3) of the answer in the size in which the source is read."""
        source = torch.from_numpy(piece.tokens[hidden, PLACES:])
        return super().complete(value, piece, hidden, self._told(output.cpu(), source))

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """How each patch differs from the source's, (p, p, 3) in steps of a byte."""
        steps = output.float().cpu().view(-1, *self.source.block, 3) * torch.tensor(self.source.std) * 255
        return [{"change": patch.round().tolist()} for patch in steps]

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """PSNR in dB and SSIM of the answers, of the sources unchanged, and by how many dB the answers are better."""
        psnr, ssim, source_psnr, source_ssim = output.double().numpy().T
        return {
            "psnr": (np.mean, psnr),
            "ssim": (np.mean, ssim),
            "psnr_unchanged": (np.mean, source_psnr),
            "ssim_unchanged": (np.mean, source_ssim),
            "psnr_gained": (np.mean, psnr - source_psnr),
        }

    def per_item_metric(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32] | None:
        """The SSIM of each answer."""
        found: NDArray[np.float32] = output[:, 1].numpy().astype(np.float32)
        return found

    def baseline(self, answers: Sequence[Any]) -> dict[str, Score]:
        """None: what reads nothing has no picture to change."""
        return {}

    def show(self, answer: Any) -> str:
        """A thumbnail of an answer, or of a true one."""
        return small(answer.pixels if isinstance(answer, Picture) else answer, THUMBNAIL, "a picture")

    def state(self) -> State:
        """Nothing: all is the source's."""
        return {}
