"""Fetching the art by npm, with an npm that is played."""

import base64
import hashlib
import io
import json
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ldznet.research.scenes import art
from ldznet.research.scenes.art import ARTISTS, ArtError, fetch_art, fit_sprite, read_art
from ldznet.research.scenes.nouns import NOUNS, nouns_digest
from ldznet.research.scenes.sprites import SPRITE_SIDE, Sprites, tint, write_sprites

SQUARE = '<path fill="#3af" d="M4 4h8v4h-8z"/>'


def package(files):
    """Return the bytes of an npm package."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A program that packs two small sets of art, as npm does; they replace all artists."""
    image = io.BytesIO()
    Image.new("RGBA", (20, 10), (255, 0, 0, 255)).save(image, "webp", lossless=True)
    names = {format(0x1F400 + place, "x"): noun.icon for place, noun in enumerate(NOUNS.values())}
    codes = {icon: code for code, icon in names.items()}
    svgs = {"icons": {NOUNS["bucket"].icon: {"body": SQUARE}, "real-dog": {"body": SQUARE, "width": 32}}}
    svgs |= {"aliases": {"dog": {"parent": "real-dog"}}, "width": 16, "height": 16}
    packages = {
        "webps": package({f"assets/{codes['dog']}.webp": image.getvalue()}),
        "svgs": package({"icons.json": json.dumps(svgs).encode(), "chars.json": json.dumps(names).encode()}),
    }
    artists = {}
    for name, data in packages.items():
        (tmp_path / f"{name}-1.0.0.tgz").write_bytes(data)
        digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
        artists[name] = replace(
            ARTISTS["noto"], name=name, package=name, version="1.0.0", integrity=f"sha512-{digest}"
        )
    monkeypatch.setattr(art, "ARTISTS", artists)
    monkeypatch.setattr(art, "_CODE_POINTS", "svgs")
    program = tmp_path / "npm"
    program.write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        f"name = sys.argv[-1].replace('@1.0.0', '')\nshutil.copy(f'{tmp_path}/' + name + '-1.0.0.tgz', '.')\n"
    )
    program.chmod(0o755)
    return program


def test_the_art_is_fetched_rendered_and_read(tmp_path, npm):
    pytest.importorskip("resvg_py")
    lines = []
    fetch_art(tmp_path / "art", lines.append, npm=str(npm))

    hands = read_art(tmp_path / "art")

    assert [line.split(",")[0] for line in lines] == ["webps: 1 of 215 nouns", "svgs: 2 of 215 nouns"]
    assert (hands["webps"].words, hands["svgs"].words) == (("dog",), ("bucket", "dog"))
    # Twice as wide as high: the longer side fills the sprite, the other half of it.
    assert hands["webps"].fullness("dog") == pytest.approx(0.475, abs=0.01)
    assert hands["svgs"].fullness("bucket") == pytest.approx(0.475, abs=0.01)
    fetch_art(tmp_path / "art", lines.append, npm="no-such-npm")  # all is there
    assert lines[-1].startswith("2 sets of art are in ")


def test_art_of_other_nouns_is_rendered_again(tmp_path, npm, monkeypatch):
    pytest.importorskip("resvg_py")
    fetch_art(tmp_path / "art", lambda _line: None, npm=str(npm))
    monkeypatch.setattr(art, "nouns_digest", lambda: "of other nouns")

    with pytest.raises(ArtError, match=r"lacks 2 of 2 sets of art, or holds them for other nouns, first webps"):
        read_art(tmp_path / "art")
    fetch_art(tmp_path / "art", lambda _line: None, npm="no-such-npm")  # the packages are still there

    assert sorted(read_art(tmp_path / "art")) == ["svgs", "webps"]


def test_a_package_that_is_not_the_published_one_is_refused(tmp_path, npm):
    pytest.importorskip("resvg_py")
    (tmp_path / "svgs-1.0.0.tgz").write_bytes(package({"icons.json": b"{}"}))

    with pytest.raises(ArtError, match=r"is not svgs 1.0.0 as it was published: .* Delete the file"):
        fetch_art(tmp_path / "art", lambda _line: None, npm=str(npm))

    assert not list((tmp_path / "art").glob("*.npz"))


def test_without_npm_the_error_says_what_to_install(tmp_path, npm):
    pytest.importorskip("resvg_py")
    with pytest.raises(ArtError, match=r"fetched by npm, which is not installed here. Install Node.js"):
        fetch_art(tmp_path / "art", lambda _line: None, npm="no-such-npm")


def test_without_network_the_error_shows_what_npm_wrote(tmp_path, npm):
    pytest.importorskip("resvg_py")
    npm.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('npm error network ENOTFOUND')\n")

    with pytest.raises(ArtError, match=r"could not fetch svgs 1.0.0 \(npm error network ENOTFOUND\). Check that"):
        fetch_art(tmp_path / "art", lambda _line: None, npm=str(npm))


def test_missing_art_is_named_with_the_command_that_fetches_it(tmp_path):
    with pytest.raises(ArtError, match=r"lacks 8 of 8 sets of art, or .* first fluent-3d. .* datasets art"):
        read_art(tmp_path)


def test_two_artists_are_kept_for_measuring():
    assert [name for name, artist in ARTISTS.items() if not artist.trained_on] == ["openmoji", "firefox"]
    assert all("SA" not in artist.license for artist in ARTISTS.values() if artist.trained_on)


def test_a_sprite_is_cropped_to_what_is_opaque_and_fills_its_square():
    image = np.zeros((100, 80, 4), np.uint8)
    image[10:40, 20:30] = (200, 100, 0, 255)

    sprite = fit_sprite(image)

    rows, columns = np.nonzero(sprite[..., 3] > 127)
    assert sprite.shape == (SPRITE_SIDE, SPRITE_SIDE, 4)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (SPRITE_SIDE - 4, (SPRITE_SIDE - 4) // 3)
    assert tuple(sprite[SPRITE_SIDE // 2, SPRITE_SIDE // 2]) == (200, 100, 0, 255)


def test_a_tint_changes_the_main_colour_and_leaves_the_rest():
    sprite = np.zeros((SPRITE_SIDE, SPRITE_SIDE, 4), np.uint8)
    sprite[20:140, 20:140] = (220, 30, 30, 255)
    sprite[20:140, 20:40] = (40, 200, 60, 255)

    blue = tint(sprite, "blue")

    red, green, blue_part = blue[80, 100, :3].astype(int)
    assert blue_part > 150
    assert max(red, green) < 0.75 * blue_part
    assert tuple(blue[80, 30, :3]) == (40, 200, 60)
    assert np.array_equal(blue[..., 3], sprite[..., 3])


def test_sprites_are_the_same_when_they_are_read_again(tmp_path):
    sprite = fit_sprite(np.full((30, 40, 4), 255, np.uint8))
    write_sprites(tmp_path / "someone.npz", {"dog": sprite, "balloon": sprite}, nouns_digest())

    hand = Sprites.read(tmp_path / "someone.npz", "cartoon")

    assert (hand.artist, hand.look, hand.words) == ("someone", "cartoon", ("balloon", "dog"))
    assert np.array_equal(hand.levels("dog", "")[0], sprite)
    assert [level.shape[0] for level in hand.levels("dog", "")] == [160, 80, 40]
    assert (hand.takes_color("balloon"), hand.takes_color("dog")) == (True, False)
