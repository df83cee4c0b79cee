"""What folders of prepared arrays say of themselves, and what a preparation notes on its way."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from sfdabench.core.toml import Part

Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True)]
Step = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Dtype = Literal["uint8", "float16"]
BYTES = dict(zip(get_args(Dtype), (1, 2), strict=True))


class DataFile(Part):
    """Length and content hash of a file, or of what one case adds to it."""

    bytes: Count
    sha256: Hash


class CaseImages(Part):
    """A case without its labels; fields as in `PreparedCase` and `Geometry`.

    side: of its planes, in pixels. raters: how many planes a slice may have made.
    """

    id: str
    planes: Count
    side: Count
    raters: Count
    shape: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]
    box: tuple[Whole, Whole, Count, Count]
    spacing: tuple[Step, ...] | None

    @model_validator(mode="after")
    def _agrees(self) -> CaseImages:
        most = self.shape[0] if len(self.shape) == 3 else 1
        if self.planes > most * self.raters:
            raise ValueError(f"case {self.id} has more planes than its original")
        if self.spacing is not None and len(self.spacing) != len(self.shape):
            raise ValueError(f"case {self.id} has a spacing of another dimension than its shape")
        return self


class CaseLabels(Part):
    """The labels of a case. packed: bytes of its compressed label map on the authors' grid."""

    id: str
    planes: Count
    side: Count
    packed: Count


class ImagesIndex(Part):
    """Index of a folder of images.

    key: of what they were made. shape: (C, S, S) of a plane, S the side that networks work on;
    the planes of a case have the side that it names.
    """

    key: Hash
    dtype: Dtype
    shape: tuple[Count, Count, Count]
    cases: Annotated[tuple[CaseImages, ...], Field(min_length=1)]
    images: DataFile

    @model_validator(mode="after")
    def _agrees(self) -> ImagesIndex:
        pixels = sum(case.planes * case.side**2 for case in self.cases)
        if self.images.bytes != pixels * self.shape[0] * BYTES[self.dtype]:
            raise ValueError("images.bin has another length than its planes take")
        return self


class LabelsIndex(Part):
    """Index of a folder of labels. key: that of the images they belong to. shape: (S, S)."""

    key: Hash
    shape: tuple[Count, Count]
    cases: Annotated[tuple[CaseLabels, ...], Field(min_length=1)]
    labels: DataFile
    originals: DataFile

    @model_validator(mode="after")
    def _agrees(self) -> LabelsIndex:
        if self.labels.bytes != sum(case.planes * case.side**2 for case in self.cases):
            raise ValueError("labels.bin has another length than its planes take")
        if self.originals.bytes != sum(case.packed for case in self.cases):
            raise ValueError("originals.bin has another length than its label maps take")
        return self

    def belongs_to(self, images: ImagesIndex) -> bool:
        """Whether these are the labels of those images."""
        planes = [
            [(case.id, case.planes, case.side) for case in index.cases] for index in (self, images)
        ]
        return self.key == images.key and self.shape == images.shape[1:] and planes[0] == planes[1]


class LoggedCase(Part):
    """A case that a preparation has written. parts: what it added to each file, in their order."""

    images: CaseImages
    labels: CaseLabels | None
    dtype: Dtype
    shape: tuple[Count, Count, Count]
    parts: tuple[DataFile, ...]
