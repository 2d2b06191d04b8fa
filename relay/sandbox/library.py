"""The sandbox's assets: uploaded, listed, deleted. Contents are kept up to a bound, sizes and hashes always."""

from dataclasses import dataclass, replace
from typing import Final

from relay.sandbox.shapes import Json, iso

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
class Upload:
    """A body that was read to its end; `kept` is its content, or empty where that was more than KEPT_MAX_BYTES."""

    name: str
    content_type: str
    size: int
    sha256: str
    kept: bytes = b""
    duration_s: float | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Asset:
    asset_id: str
    uuid: str
    account: str
    user_id: int
    created_ms: int
    upload: Upload
    deleted: bool = False

    @property
    def media_type(self) -> str:
        return self.upload.content_type.partition("/")[0]

    @property
    def filename(self) -> str:
        """Its name in artifact addresses."""
        return f"{self.uuid}.{MEDIA[self.upload.content_type]}"


class Library:
    """Assets by id, the newest last; the oldest goes when there are too many."""

    def __init__(self) -> None:
        self._assets: dict[str, Asset] = {}

    def add(self, asset: Asset) -> None:
        self._assets[asset.asset_id] = asset
        if len(self._assets) > ASSETS_MAX:
            del self._assets[next(iter(self._assets))]

    def get(self, asset_id: str) -> Asset | None:
        asset = self._assets.get(asset_id)
        return asset if asset is not None and not asset.deleted else None

    def find(self, uuid: str) -> Asset | None:
        return next((asset for asset in self._assets.values() if asset.uuid == uuid and not asset.deleted), None)

    def delete(self, asset_id: str) -> Asset | None:
        asset = self.get(asset_id)
        if asset is not None:
            self._assets[asset_id] = replace(asset, deleted=True, upload=replace(asset.upload, kept=b""))
        return asset

    def listed(self, *, media_type: str | None, email: str | None) -> list[Asset]:
        """Newest first."""
        return [
            asset
            for asset in reversed(self._assets.values())
            if not asset.deleted and media_type in (None, asset.media_type) and email in (None, asset.account)
        ]


def asset_object(asset: Asset, url: str) -> Json:
    upload = asset.upload
    size = None if upload.width is None else {"width": upload.width, "height": upload.height}
    return {
        "assetId": asset.asset_id,
        "id": asset.uuid,
        "createdAt": iso(asset.created_ms),
        "updatedAt": iso(asset.created_ms),
        "userId": asset.user_id,
        "createdBy": asset.user_id,
        "filename": upload.name,
        "mediaType": asset.media_type,
        "contentType": upload.content_type,
        "url": url,
        "fileSize": str(upload.size),
        "sha256": upload.sha256,
        "isDirectory": False,
        "previewUrls": [],
        "private": True,
        "deleted": asset.deleted,
        "metadata": {"duration": upload.duration_s, "size": size},
        "favorite": False,
    }
