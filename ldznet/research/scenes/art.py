"""The sets of icons that the embedded model's world is drawn with, fetched by npm and rendered once.

The art is other people's: nothing of it is part of ldznet. `fetch_art` asks npm for named versions of its
packages, compares each with its digest, and renders one icon per noun and artist to a file of sprites.

    FOLDER/ARTIST.npz    sprites.py reads it; a later call renders only what is missing

Source of the format of `icons.json`: https://iconify.design/docs/types/iconify-json.html
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ldznet.errors import LdznetError
from ldznet.files import temporary_folder
from ldznet.research.scenes.nouns import NOUNS, nouns_digest
from ldznet.research.scenes.sprites import SPRITE_SIDE, Array, Sprites, digest_of_nouns, write_sprites

__all__ = ["ARTISTS", "ArtError", "Artist", "default_art_folder", "fetch_art", "read_art"]

_RENDERED_SIDE = 320  # pixels: larger than a sprite, so that cropping the margin loses nothing
_NPM_TIMEOUT = 600  # seconds for one package; the largest has 16 MB
_LARGEST_MEMBER = 2**28  # bytes of one file of a package


class ArtError(LdznetError):
    """The art could not be fetched, or is not what it should be."""


@dataclass(frozen=True)
class Artist:
    """One set of icons: who drew it, and the npm package that it comes in."""

    name: str
    look: str  # the word of captions for this artist's hand
    package: str
    version: str
    integrity: str  # of the package's archive, as npm writes it
    license: str
    trained_on: bool  # False: the model never sees it in training, so that others' hands can be measured


ARTISTS: dict[str, Artist] = {
    artist.name: artist
    for artist in (
        Artist(
            "fluent-3d",
            "render",
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
            "MIT",
            True,
        ),
        Artist(
            "fluent-flat",
            "icon",
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
            "MIT",
            True,
        ),
        Artist(
            "noto",
            "painting",
            "@iconify-json/noto",
            "1.2.9",
            "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
            "Apache-2.0",
            True,
        ),
        Artist(
            "twemoji",
            "cartoon",
            "@iconify-json/twemoji",
            "1.2.5",
            "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
            "CC-BY-4.0",
            True,
        ),
        Artist(
            "noto-v1",
            "painting",
            "@iconify-json/noto-v1",
            "1.2.5",
            "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
            "Apache-2.0",
            True,
        ),
        Artist(
            "emojitwo",
            "cartoon",
            "@iconify-json/emojione",
            "1.2.3",
            "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
            "CC-BY-4.0",
            True,
        ),
        # Share-alike: weights that are handed out are not trained on it.
        Artist(
            "openmoji",
            "drawing",
            "@iconify-json/openmoji",
            "1.2.29",
            "sha512-vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
            "CC-BY-SA-4.0",
            False,
        ),
        Artist(
            "firefox",
            "cartoon",
            "@iconify-json/fxemoji",
            "1.2.2",
            "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
            "Apache-2.0",
            False,
        ),
    )
}
_CODE_POINTS = "noto"  # the artist whose package knows the code point of every icon's name


def default_art_folder() -> Path:
    """Return the folder of the rendered art: outside of every repository, in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ldznet" / "art"


def read_art(folder: Path | None = None) -> dict[str, Sprites]:
    """Return every artist's sprites from the folder (None: the default one).

    Raises:
        ArtError: some of the art has not been fetched, or a file is damaged.
    """
    folder = folder or default_art_folder()
    missing = _missing(folder)
    if missing:
        raise ArtError(
            f"{folder} lacks {len(missing)} of {len(ARTISTS)} sets of art, or holds them for other nouns, first "
            f"{missing[0]}. Fetch them with python -m ldznet datasets art, or name another folder with --art."
        )
    hands = {}
    for name, artist in ARTISTS.items():
        path = folder / f"{name}.npz"
        try:
            hands[name] = Sprites.read(path, artist.look)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ArtError(
                f"{path} cannot be read ({error}). Delete it and fetch it again: python -m ldznet datasets art."
            ) from error
    return hands


def fetch_art(folder: Path, say: Callable[[str], None] = print, *, npm: str = "npm") -> None:
    """Render every artist's icons into the folder; files that hold all nouns stay as they are.

    Raises:
        ArtError: npm or resvg-py is missing, npm answers with an error, or a package is not the expected one.
    """
    missing = [ARTISTS[name] for name in _missing(folder)]
    if not missing:
        say(f"{len(ARTISTS)} sets of art are in {folder}")
        return
    _require_renderer()
    packages = folder / "packages"
    code_points = _code_points(_package(ARTISTS[_CODE_POINTS], packages, npm))
    for artist in missing:
        archive = _package(artist, packages, npm)
        sprites = dict(_render(archive, code_points))
        if not sprites:
            raise ArtError(
                f"{artist.package} {artist.version} holds none of {len(NOUNS)} icons, so its files are named in "
                "another way than expected. Report this."
            )
        write_sprites(folder / f"{artist.name}.npz", sprites, nouns_digest())
        say(f"{artist.name}: {len(sprites)} of {len(NOUNS)} nouns, {artist.license}")


def _missing(folder: Path) -> list[str]:
    """Return the artists whose sprites are not there, or were rendered for other nouns."""
    return [name for name in ARTISTS if digest_of_nouns(folder / f"{name}.npz") != nouns_digest()]


def _require_renderer() -> None:
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ArtError(
            "Icons are rendered by resvg-py, which is not installed. Install it with pip install resvg-py==0.5.0, "
            "and give the command again."
        ) from error


def _package(artist: Artist, folder: Path, npm: str) -> Path:
    """Return the archive of an artist's package, from the folder or from npm, after a look at its digest."""
    archive = folder / f"{artist.package.replace('@', '').replace('/', '-')}-{artist.version}.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as temporary:
            _pack(artist, temporary, npm)
            _check_digest(artist, temporary / archive.name)
            os.replace(temporary / archive.name, archive)
    _check_digest(artist, archive)
    return archive


def _pack(artist: Artist, folder: Path, npm: str) -> None:
    program = shutil.which(npm)
    if program is None:
        raise ArtError(
            "The art is fetched by npm, which is not installed here. Install Node.js (https://nodejs.org), which "
            "brings npm, or copy a folder of art from another machine and name it with --art."
        )
    command = [program, "pack", "--silent", f"{artist.package}@{artist.version}"]
    try:
        subprocess.run(  # noqa: S603, all of the command is our own
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=_NPM_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise ArtError(
            f"npm did not fetch {artist.package} {artist.version} within {_NPM_TIMEOUT} seconds. Check the "
            "connection and give the command again; what has been fetched is kept."
        ) from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise ArtError(
            f"npm could not fetch {artist.package} {artist.version} ({lines[0][:200]}). Check that the registry "
            "can be reached (npm ping) and give the command again; what has been fetched is kept."
        ) from error


def _check_digest(artist: Artist, archive: Path) -> None:
    if not archive.exists():
        raise ArtError(
            f"npm fetched {artist.package} {artist.version}, but wrote no {archive.name}. Update npm and give the "
            "command again."
        )
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != artist.integrity:
        raise ArtError(
            f"{archive} is not {artist.package} {artist.version} as it was published: its digest is another one. "
            "Delete the file and give the command again."
        )


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file of a package."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.size <= _LARGEST_MEMBER and (file := tar.extractfile(member)):
                yield member.name, file.read()


def _json_member(archive: Path, name: str) -> Any:
    for path, content in _members(archive):
        if path == f"package/{name}":
            return json.loads(content)
    raise ArtError(f"{archive} holds no {name}. Delete the file and give the command again.")


def _code_points(archive: Path) -> dict[str, str]:
    """Return the code points, "1f415", of every icon's name."""
    names: dict[str, str] = {}
    for code, name in _json_member(archive, "chars.json").items():
        names.setdefault(name, code)
    return names


def _render(archive: Path, code_points: Mapping[str, str]) -> Iterator[tuple[str, Array]]:
    """Yield the word and the sprite of each noun that the package draws."""
    files = {name: content for name, content in _members(archive) if name.endswith((".webp", "/icons.json"))}
    if "package/icons.json" not in files:
        for noun in NOUNS.values():
            code = code_points[noun.icon]
            content = files.get(f"package/assets/{code}.webp") or files.get(f"package/assets/{code}-fe0f.webp")
            if content:
                with Image.open(io.BytesIO(content)) as image:
                    yield noun.word, fit_sprite(np.asarray(image.convert("RGBA")))
        return
    icons = json.loads(files["package/icons.json"])
    for noun in NOUNS.values():
        if svg := _svg_of(icons, noun.icon):
            import resvg_py

            png = resvg_py.svg_to_bytes(svg_string=svg, width=_RENDERED_SIDE, height=_RENDERED_SIDE)
            with Image.open(io.BytesIO(bytes(png))) as image:
                yield noun.word, fit_sprite(np.asarray(image.convert("RGBA")))


def _svg_of(icons: Mapping[str, Any], name: str) -> str:
    """Return the SVG of an icon; empty where the set does not have it."""
    for _ in range(8):  # an alias may name another one
        if name not in icons.get("aliases", {}):
            break
        name = icons["aliases"][name]["parent"]
    if name not in icons["icons"]:
        return ""
    icon = {"left": 0, "top": 0, "width": icons.get("width", 16), "height": icons.get("height", 16)}
    icon |= icons["icons"][name]
    box = f"{icon['left']} {icon['top']} {icon['width']} {icon['height']}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}">{icon["body"]}</svg>'
    )


def fit_sprite(image: Array) -> Array:
    """Crop (H, W, 4) uint8 RGBA to what is opaque and return it in the middle of a sprite of SPRITE_SIDE pixels.

    The result's colours are multiplied by its alpha, so that it can be turned and scaled without a dark seam.
    """
    opaque = image[..., 3] > 127
    rows, columns = np.flatnonzero(opaque.any(1)), np.flatnonzero(opaque.any(0))
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    image[..., :3] *= image[..., 3:] / 255
    room = SPRITE_SIDE - 4
    scale = room / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=way)
    sprite = np.zeros((SPRITE_SIDE, SPRITE_SIDE, 4), np.uint8)
    top, left = (SPRITE_SIDE - height) // 2, (SPRITE_SIDE - width) // 2
    sprite[top : top + height, left : left + width] = np.clip(np.round(resized), 0, 255)
    return sprite
