"""What images of a request must not be: too many, too large, or known.

Known ones are listed by the sha256 of the bytes that the engine gets, which any change to the file changes, or by a
perceptual fingerprint, which survives other sizes, formats and qualities (`fingerprint` computes it; 64 bits, compared
by the number of bits that differ). A fingerprint finds copies of a picture, not pictures of the same thing; flat and
near-empty pictures share one. What was cropped, turned or mirrored is not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reward.types import Action, Image, Verdict

Fingerprint = Callable[[Image], int]
"""64 bits of how the picture looks."""


@dataclass(frozen=True, slots=True)
class ImageLimitRule:
    """At most so many images, each of at most so many bytes; 0: any number."""

    name: str
    max_images: int = 0
    max_bytes: int = 0
    action: Action = Action.BLOCK

    @property
    def version(self) -> str:
        return f"{self.max_images}-{self.max_bytes}"

    def check(self, images: Sequence[Image]) -> Verdict:
        if self.max_images and len(images) > self.max_images:
            return Verdict(self.name, self.version, self.action, f"more than {self.max_images} images")
        if self.max_bytes and any(len(image.data) > self.max_bytes for image in images):
            return Verdict(self.name, self.version, self.action, f"an image of more than {self.max_bytes} bytes")
        return Verdict(self.name, self.version, Action.ALLOW)


@dataclass(frozen=True, slots=True)
class KnownImageRule:
    """None of the listed images, nor any whose fingerprint differs from a listed one's in up to `max_distance` bits."""

    name: str
    digests: frozenset[str]
    fingerprints: tuple[int, ...]
    max_distance: int = field(kw_only=True)
    fingerprint: Fingerprint = field(kw_only=True, compare=False)
    action: Action = Action.BLOCK

    @property
    def version(self) -> str:
        listed = sorted([*self.digests, *(f"{one:016x}" for one in self.fingerprints)])
        return hashlib.sha256("\n".join([str(self.max_distance), *listed]).encode()).hexdigest()[:8]

    def check(self, images: Sequence[Image]) -> Verdict:
        if any(self._is_known(image) for image in images):
            return Verdict(self.name, self.version, self.action, "a listed image")
        return Verdict(self.name, self.version, Action.ALLOW)

    def _is_known(self, image: Image) -> bool:
        if image.sha256 in self.digests:
            return True
        if not self.fingerprints:
            return False
        looks = self.fingerprint(image)
        return any((looks ^ one).bit_count() <= self.max_distance for one in self.fingerprints)
