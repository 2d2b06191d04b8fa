"""The sandbox's assets: uploaded, listed, deleted. Contents are kept up to a bound, sizes and hashes always."""

from dataclasses import dataclass
from typing import Final

from relay.sandbox.shapes import Json, asset_id, file_object

ASSETS_MAX: Final = 1_000
UPLOAD_MAX_BYTES: Final = 512 * 1024 * 1024
KEPT_MAX_BYTES: Final = 1024 * 1024  # of one asset; larger ones are counted and hashed as they stream by

MEDIA: Final = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-m4v": "m4v",
    "video/mpeg": "mpeg",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """An upload that was read to its end; `kept` is its content, or empty where that was more than KEPT_MAX_BYTES."""

    uuid: str
    account: str
    user_id: int
    created_ms: int
    name: str
    content_type: str
    size: int
    sha256: str
    kept: bytes = b""
    duration_s: float | None = None
    width: float | None = None
    height: float | None = None

    @property
    def asset_id(self) -> str:
        return asset_id(self.user_id, self.account, self.uuid)

    @property
    def media_type(self) -> str:
        return self.content_type.partition("/")[0]

    @property
    def filename(self) -> str:
        """Its name in artifact addresses."""
        return f"{self.uuid}.{MEDIA[self.content_type]}"

    def as_json(self, url: str) -> Json:
        return {
            **file_object(self.asset_id, self.user_id, self.created_ms, self.name, self.size),
            "mediaType": self.media_type,
            "contentType": self.content_type,
            "url": url,
            "sha256": self.sha256,
            "metadata": {
                "duration": self.duration_s,
                "size": None if self.width is None else {"width": self.width, "height": self.height},
            },
        }


class Library:
    """Assets by uuid, the newest last; the oldest goes when there are too many."""

    def __init__(self) -> None:
        self._assets: dict[str, Asset] = {}

    def add(self, asset: Asset) -> None:
        self._assets[asset.uuid] = asset
        if len(self._assets) > ASSETS_MAX:
            del self._assets[next(iter(self._assets))]

    def find(self, uuid: str) -> Asset | None:
        return self._assets.get(uuid)

    def get(self, full_id: str) -> Asset | None:
        asset = self.find(full_id.rpartition(":")[2])
        return asset if asset is not None and asset.asset_id == full_id else None

    def remove(self, asset: Asset) -> None:
        del self._assets[asset.uuid]

    def listed(self, *, media_type: str | None, email: str | None) -> list[Asset]:
        """Newest first."""
        return [
            asset
            for asset in reversed(self._assets.values())
            if media_type in (None, asset.media_type) and email in (None, asset.account)
        ]
