"""image: an image, read as square patches. As an answer, it is the hidden patches of `~image`, or a new image of the same size.

See vision/image_value.py for the cells, vision/patch_source.py for the tokens, and vision/image_targets.py for answers.
Legend of shapes: h rows, w columns of pixels, t tokens, d width.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto import files
from mapsto.errors import BadCell, CheckpointError, DataError, UsageError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.sequence.piece import Alignment, Ints, MixturePart, Piece
from mapsto.task.shingles import Hashes, hashes
from mapsto.task.source_capabilities import Mark, Mixture, Spatial
from mapsto.vision import augmentation, image_io, image_value, mixup, preprocessor_config
from mapsto.vision.cell_source import CellSource
from mapsto.vision.features import COORDINATE_DECIMALS, joined_features, perturb_image, strongest_waves
from mapsto.vision.image_targets import ImageToImageTarget, MaskedImageTarget
from mapsto.vision.image_value import THUMBNAIL, ImageValue
from mapsto.vision.patch_embedding import (
    MAX_GRID_SIDE,
    ConvolutionEmbedder,
    PatchConfig,
    PatchEmbedder,
    PatchPositions,
)
from mapsto.vision.patch_source import (
    CONFIG_FILE,
    MAX_PUBLISHED_PATCH,
    NORM_PIX_LOSS,
    PROCESSOR_FILE,
    STANDARDISED,
    PatchSource,
    PixelScale,
    choose_resizer,
    evenly_spaced,
    grid_neighbours,
    pixel_statistics,
)
from mapsto.vision.pixels import Pixels
from mapsto.vision.resize import Resizer

# The names of the special tokens that have position embeddings.
PLACED_NAMES = ("[CLS]", "[distillation]")

# The scale of predicted pixels with `norm_pix_loss` (MAE).
NORM_PIX_SCALE = PixelScale(group="patch")

# The number of axes of each weight of an embedder.
WEIGHT_AXES = {
    "position_embeddings": 3,
    "projection.weight": 4,
    "cls_token": 3,
    "register_tokens": 3,
    "query_tokens": 3,
    "later_positions": 4,
}

# The most learnt queries. A token's type is one byte, which numbers special tokens and queries.
MAX_QUERIES = 200

# For new models: the most pixels a side, and the number of training images from which pixel statistics are computed.
MAX_SIZE, STATISTICS_SAMPLE = 224, 500

# How `outline` draws the boxes of labels and of predictions.
LABEL_STROKE = 'stroke="rgb(var(--for))" stroke-dasharray="6 4"'
PREDICTION_STROKE = 'stroke="rgb(var(--against))"'


class ImageSource(PatchSource, Spatial):
    """A source of images, whose tokens are square patches of pixels.

    table: rows and columns of the grid of position embeddings.
    placed: number of special tokens in front of the patches that have position embeddings, such as [CLS].
    registers: number of special tokens between these and the patches, without position embeddings.
    masked: True if hidden patches are embedded as a learnt vector, False if as patches of the mean colour.
    bias: whether the linear map from a patch's pixels to its vector has a bias.
    front: settings of a convolutional network that embeds whole images in place of the linear map; None for the linear map.
    With it nothing can be hidden, and there are no special tokens.
    queries: number of learnt query tokens behind the patches.
    layer_positions: number of layers to whose outputs learnt position embeddings are added again.
    """

    kind = "image"
    family = "dinov2"
    feature_name = "colours and edges"
    size_unit = "pixels"
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.6, "mae": 0.75, "simclr": 0.0}
    suffixes = image_io.IMAGE_SUFFIXES
    decoders = ("pillow",)
    defaults = replace(PatchSource.defaults, rows_at_once=32, near_duplicate_threshold=0.8)
    # Objects in a mosaic are smaller than in images, so that half of the rows are left as they are.
    mixtures: ClassVar[Mapping[str, Mixture]] = {**PatchSource.mixtures, "mosaic": Mixture(4, "placed", 0.5)}

    def __init__(
        self,
        resizer: Resizer,
        mean: Sequence[float],
        std: Sequence[float],
        table: tuple[int, int] | None = None,
        registers: int = 0,
        masked: bool = True,
        placed: int = 1,
        bias: bool = True,
        scale: PixelScale = STANDARDISED,
        front: ConvolutionConfig | None = None,
        queries: int = 0,
        layer_positions: int = 0,
    ) -> None:
        super().__init__(resizer, mean, std, table, scale)
        self.registers, self.masked, self.placed, self.bias = registers, masked, placed, bias
        self.front, self.queries, self.layer_positions = front, queries, layer_positions

    def __str__(self) -> str:
        p, side = self.resizer.patch, self.resizer.size
        if self.front is not None:
            return f"pictures up to {side} × {side} pixels, read by {self.front}"
        return f"patches of {p} × {p} pixels, of pictures up to {side} × {side}"

    @property
    def leading(self) -> int:
        """Return the number of special tokens in front of an image's patches."""
        return self.placed + self.registers

    @property
    def trailing(self) -> int:
        """Return the number of learnt query tokens behind an image's patches."""
        return self.queries

    @property
    def max_tokens(self) -> int:
        """Return the number of tokens of the largest image that is read, with special tokens and learnt queries."""
        return self.leading + max(self.resizer.max_patches, math.prod(self.table)) + self.queries

    @classmethod
    def new(cls, values: Sequence[ImageValue], size: int | None = None, share: float = 1.0) -> Self:
        """Return the source of a new model. It scales images down to at most 224 pixels a side.

        The patch size is chosen so that an image of median size has about 8 × 8 patches. The mean and the standard deviation of
        pixels are computed from the training images `values`. share: not used.
        Raises DataError if there are no images, and UsageError for a `size`, since images have no vocabulary.
        """
        if size is not None:
            raise UsageError("--vocabulary is for text; pictures have none")
        if not values:
            raise DataError("there is no picture to learn the size of pictures from")
        resizer = choose_resizer([max(value.height, value.width) for value in values], MAX_SIZE)
        return cls(resizer, *pixel_statistics(value.pixels for value in evenly_spaced(values, STATISTICS_SAMPLE)))

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of a saved model from the settings in `folder`, and the embedder's `weights`, whose shapes count.

        front: settings of the convolutional network that embeds whole images; None if the model has none.
        Raises CheckpointError if the settings are missing, invalid or not supported.
        """
        processor = files.read_json(folder / PROCESSOR_FILE)
        if front is None:
            patch, arguments = _read_patches(folder, weights)
        else:
            patch, arguments = front.stride, {"placed": 0, "masked": False, "front": front}
        too_large = patch > MAX_PUBLISHED_PATCH or arguments["placed"] > len(PLACED_NAMES)
        if too_large or arguments.get("queries", 0) > MAX_QUERIES:
            raise CheckpointError(
                f"{folder}: patches of {patch} pixels behind {arguments['placed']} tokens are not supported, nor more than "
                f"{MAX_QUERIES} queries"
            )
        try:
            resizer = preprocessor_config.read_resizer(processor, patch)
            if front is not None and resizer.size % patch:
                raise ValueError(f"pictures must be of whole cells of {patch} pixels, not {resizer.size}")
            return cls(resizer, *preprocessor_config.read_normalisation(processor), **arguments)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / PROCESSOR_FILE} says no way to prepare pictures: {error!r}") from error

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write preprocessor_config.json to `folder`; return image size, patch size and number of channels for config.json.

        longest: not used.
        """
        resizer, processor = self.resizer, preprocessor_config.to_config(self.resizer, self.mean, self.std)
        files.write_atomic(folder / PROCESSOR_FILE, (json.dumps(processor, indent=1) + "\n").encode())
        rows, columns = self.table
        side = resizer.patches_per_side
        size = resizer.size if (side, side) == self.table else rows * resizer.patch
        both_sides = [rows * resizer.patch, columns * resizer.patch]
        is_square = rows == columns and not self.queries  # families with queries want both sides
        sizes: dict[str, Any] = {"image_size": size if is_square else both_sides, "num_channels": 3}
        sizes |= {NORM_PIX_LOSS: True} if self.scale == NORM_PIX_SCALE else {}
        return sizes if self.front is not None else {**sizes, "patch_size": resizer.patch}

    samples = staticmethod(image_value.sample_images)
    fits = staticmethod(image_value.fits_images)
    read = staticmethod(image_value.read_image)

    @classmethod
    def sketch(cls, value: ImageValue) -> Hashes:
        """Return a hash for each of the strongest low frequencies of the image and its sign; near-duplicates share most.

        The frequencies are those of the cosine transform of a small grey copy.
        """
        return hashes(strongest_waves(value.thumbnail).astype(np.uint64))

    @staticmethod
    def size(value: ImageValue) -> float:
        """Return the number of pixels of the raw image."""
        return value.height * value.width

    def _resize(self, value: ImageValue) -> tuple[Pixels, NDArray[np.float64]]:
        return self.resizer.resize(value.pixels)

    @staticmethod
    def _raw_size(value: ImageValue) -> tuple[float, ...]:
        return value.height, value.width

    _augment_pixels = staticmethod(augmentation.augment_image)

    def mix(self, pieces: Sequence[Piece], rng: np.random.Generator, method: str) -> tuple[Piece, list[MixturePart]]:
        """Return a mixture of images, and for each image its share and, in a mosaic, the tokens that show it.

        method: "mixup" averages two images, "cutmix" pastes a rectangle of the second into the first, "mosaic" shows four images
        in the quadrants around a random point.
        """
        # Blending and pasting are the same for images and videos; only images have mosaics.
        if method != "mosaic":
            return super().mix(pieces, rng, method)
        mixed, tiles = mixup.make_mosaic(list(map(self.to_pixels, pieces)), self.resizer.patch, rng)
        mosaic = self._with_pixels(pieces[0], mixed)
        return mosaic, [self._tile_part(mosaic, piece, tile) for piece, tile in zip(pieces, tiles, strict=True)]

    def _tile_part(self, mosaic: Piece, piece: Piece, tile: mixup.Tile | None) -> MixturePart:
        """Return the part of a mosaic that shows the image of `piece`: its share of all patches and its tokens.

        tile: the rectangle of patches that shows the image; None if the mosaic does not show it, which gives the share 0.
        """
        if tile is None:
            return MixturePart(0.0)
        is_inside = ((mosaic.positions >= tile.begin) & (mosaic.positions < tile.end)).all(1) & ~mosaic.special
        part = mosaic.select(np.flatnonzero(is_inside))
        if piece.alignment is not None:
            # Aligned to the image in the tile, so that its boxes can be moved to where the mosaic shows them.
            part = replace(part, alignment=Alignment(self._raw_regions(piece, part.positions, tile.origin)))
        return MixturePart(len(part) / int((~mosaic.special).sum()), part)

    def require_parts(self) -> None:
        """Raise UsageError if a convolutional network embeds whole images: then no single patch can be hidden or removed."""
        if self.front is not None:
            raise UsageError(f"no part of a picture can be hidden or read alone: this start reads {self}")

    def embedder(self, width: int) -> nn.Module:
        """Return the module from tokens (t, 5 + f) to vectors (t, width): a linear map with positions, or the network `front`.

        A token is bytes: its type, row and column, the number of rows and columns of patches, then the f pixel values of its
        patch.
        """
        config = PatchConfig(
            self.resizer.patch, self.mean, self.std, self.table, self.placed, self.registers, self.masked, self.bias,
            self.queries, self.layer_positions,
        )  # fmt: skip
        return PatchEmbedder(config, width) if self.front is None else ConvolutionEmbedder(config, self.front)

    def decoder_positions(self, width: int) -> nn.Module:
        """Return a module from tokens to the position embeddings (t, width) of an MAE decoder: fixed sines and cosines.

        Those of special tokens are 0.
        """
        return PatchPositions(self.table, width)

    def mask_region(self, piece: Piece, value: ImageValue, mask: object) -> tuple[Piece, Ints]:
        """Return the piece of an image with all patches hidden that contain a pixel to hide, and the indices of these patches.

        value: the raw image. mask: an image of the same size, or an array (h, w); pixels that are not black (0) are to be hidden.
        Raises BadCell if the mask has another size or marks no patch, UsageError if the model cannot hide patches.
        """
        self.require_parts()
        is_marked, size = image_value.read_mask(mask), (value.height, value.width)
        if is_marked.shape != size:
            height, width = is_marked.shape
            raise BadCell(f"it has {width} × {height} pixels, and the picture {value.width} × {value.height}")
        assert piece.alignment is not None
        # Sums over rectangles come from sums over everything above and to the left of each pixel.
        sums = np.pad(is_marked.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        regions = piece.alignment.regions.round(COORDINATE_DECIMALS)
        top, left = np.floor(regions[:, :, 0]).astype(int).clip(0, size).T
        bottom, right = np.ceil(regions[:, :, 1]).astype(int).clip(0, size).T
        num_marked = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        hidden = np.flatnonzero((num_marked > 0) & ~piece.special)
        if not len(hidden):
            raise BadCell(
                "it marks nothing of what is read of the picture: what is to be filled in is white, the rest black"
            )
        return self._hide(piece, hidden), hidden

    def tokens_around(self, piece: Piece, counts: Sequence[int]) -> tuple[Ints, NDArray[np.float32]]:
        """Return the four patch tokens around each of q points, (q, 4), and their bilinear weights, (q, 4).

        The points lie on a regular grid over the image.
        counts: number of points along y and along x; q is their product.
        """
        patches, weights = grid_neighbours(self.grid(piece), counts)
        return np.flatnonzero(~piece.special)[patches], weights

    def _special_names(self) -> list[str]:
        registers, queries = (
            [f"[{name} {i + 1}]" for i in range(count)]
            for name, count in (("register", self.registers), ("query", self.queries))
        )
        return [*PLACED_NAMES[: self.placed], *registers, *queries]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at these indices; the other tokens keep their positions.

        If a convolutional network embeds whole images, the patches stay and get the mean colour.
        """
        if self.front is not None:
            return self._fill_with_mean(piece, np.isin(np.arange(len(piece)), tokens))
        return super().remove_tokens(piece, tokens)

    excerpt = staticmethod(image_value.excerpt)
    highlight = staticmethod(image_value.highlight)

    @classmethod
    def outline(cls, value: ImageValue, marks: Sequence[Mark]) -> str:
        """Return the image as HTML with a box around each mark's region: dashed for true labels, solid for predictions.

        The mark's text is the tooltip of its box.
        """
        shapes = []
        for mark in marks:
            (top, bottom), (left, right) = mark.region
            stroke = LABEL_STROKE if mark.from_label else PREDICTION_STROKE
            shapes.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="none" '
                f'stroke-width="2" vector-effect="non-scaling-stroke" pointer-events="all" {stroke}>'
                f"<title>{html.escape(mark.text)}</title></rect>"
            )
        counts = Counter(mark.text for mark in marks if not mark.from_label)
        predictions = ", ".join(f"{count} {text}" for text, count in counts.items())
        caption = f"a picture with {predictions or 'nothing found'}"
        return image_io.svg_image(value.pixels, 2 * THUMBNAIL, caption, shapes)

    @classmethod
    def draw(cls, value: ImageValue, marks: Sequence[Mark]) -> tuple[str, bytes]:
        """Return the suffix ".png" and the image as a PNG with a captioned box around each mark's region."""
        return ".png", image_io.draw_boxes(value.pixels, [(mark.region, mark.text) for mark in marks])

    def resize(self, size: int | None) -> ImageSource:
        """Return a source that reads whole images, not cropped, in their aspect ratio, scaled to at most `size` pixels a side.

        size: None for the largest side that this source reads. It is rounded to whole patches.
        Raises UsageError for a size with too many patches.
        """
        # A source that already reads whole images in its size has nothing to change.
        if size is None and not self.resizer.crops:
            return self
        side = max(1, round((size or self.resizer.size) / self.resizer.patch))
        if side > MAX_GRID_SIDE:
            raise UsageError(
                f"--size {size} makes more than {MAX_GRID_SIDE} patches of {self.resizer.patch} pixels to a side"
            )
        # A copy keeps the position embeddings' table, which is interpolated to other sizes.
        resized = copy(self)
        patch = self.resizer.patch
        resized.resizer = Resizer(patch, side * patch, "inside", 0, self.resizer.filter)
        return resized

    @classmethod
    def fit_features(cls, values: Sequence[ImageValue]) -> Callable[[Sequence[ImageValue]], Any]:
        """Return the function from images to features of their edges and colours, an array (n, f); see vision/features.py.

        values: not used, since these features need no fitting.
        """
        return lambda images: joined_features([image.pixels for image in images])

    @classmethod
    def linear_source(cls) -> type[CellSource]:
        """Return CellSource, the source class by which linear models read images: edges and colours of their cells."""
        return CellSource

    @staticmethod
    def perturb(value: ImageValue, rng: np.random.Generator) -> dict[str, ImageValue]:
        """Return variants of an image by name: with noise ("noise"), out of focus ("blurred") and in less light ("darker")."""
        variants = perturb_image(value.pixels, rng)
        return {name: ImageValue.from_bytes(image_io.encode_png(pixels)) for name, pixels in variants.items()}

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of this source's settings, such as size and normalisation.

        Equal hashes mean equal encodings of an image.
        """
        settings = [
            asdict(self.resizer),
            self.mean,
            self.std,
            self.table,
            self.registers,
            self.masked,
            self.placed,
            self.bias,
            self.scale.settings(),
            repr(self.front),
            self.queries,
            self.layer_positions,
        ]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _read_patches(folder: Path, weights: Mapping[str, Tensor]) -> tuple[int, dict[str, Any]]:
    """Return the side of a patch in pixels, and the other arguments of ImageSource by name.

    They are derived from the shapes of the embedder's `weights`, and from config.json in `folder`.
    Raises CheckpointError if weights are missing or have the wrong number of axes.
    """
    sizes = {name: tuple(weights[name].shape) if name in weights else (0,) * axes for name, axes in WEIGHT_AXES.items()}
    required = sizes["position_embeddings"] + sizes["projection.weight"]
    if 0 in required or any(len(sizes[name]) != axes for name, axes in WEIGHT_AXES.items()):
        raise CheckpointError(f"{folder} lacks the weights of its patches, or has them in other shapes")
    # A weight that is absent has size 0 in every axis, so its number of tokens is 0.
    placed, queries, patch = sizes["cls_token"][0], sizes["query_tokens"][1], sizes["projection.weight"][3]
    config = files.read_json(folder / CONFIG_FILE)
    # Special tokens and queries have position embeddings in the same table as patches.
    num_patches = max(0, sizes["position_embeddings"][1] - placed - queries)
    return patch, {
        "table": _position_table(num_patches, config.get("image_size"), patch),
        "registers": sizes["register_tokens"][1],
        "placed": placed,
        "masked": "mask_token" in weights,
        "bias": "projection.bias" in weights,
        "scale": NORM_PIX_SCALE if config.get(NORM_PIX_LOSS) is True else STANDARDISED,
        "queries": queries,
        "layer_positions": sizes["later_positions"][0],
    }


def _position_table(num_patches: int, size: Any, patch: int) -> tuple[int, int]:
    """Return (rows, columns) of the grid of `num_patches` position embeddings.

    size: the entry `image_size` of config.json, in pixels. If it is [height, width] and gives `num_patches` patches with a side
    of `patch` pixels, the grid has its shape; else the grid is square.
    """
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
        rows, columns = (side // patch for side in size)
        if rows * columns == num_patches:
            return rows, columns
    return round(num_patches**0.5), round(num_patches**0.5)


source = ImageSource
target = ImageToImageTarget
restored = MaskedImageTarget
