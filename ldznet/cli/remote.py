"""A webui that runs already, in place of a model of one's own: `segment --url http://127.0.0.1:7860`.

`RemoteSegmenter` stands where a Segmenter stands: pictures go to the webui's POST /ldznet/segment, probabilities
come back, rounded to 1/65535, and masks and all else are made of them here.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from ldznet.cli.printing import Voice
from ldznet.errors import HostError, ImageError, OptionError
from ldznet.options import SegmentOptions

if TYPE_CHECKING:
    from ldznet.images.reading import ImageSource
    from ldznet.result import Segmentation

# Of `add_model`: they say how a model is loaded here.
LOCAL = ("checkpoint", "random_weights", "device", "dtype", "head_storage", "prediction", "download")
# Of SegmentOptions, what a webui can be told; the rest of a request says which pictures come back.
ASKED = ("resolution", "timesteps", "seeds", "refine", "average_templates")
# Done here: what shows through is painted before the picture is sent.
HERE = ("background",)
CONNECT = 10  # seconds; a webui that runs answers at once
LONGEST = 7 * 24 * 3600  # seconds; a socket takes no endless time


def add_server(parser: argparse.ArgumentParser) -> None:
    """Flags that name a running webui."""
    group = parser.add_argument_group("a webui that runs already, with --api, in place of a model")
    group.add_argument(
        "--url",
        metavar="URL",
        help="its address, such as http://127.0.0.1:7860; its loaded checkpoint is used, and --head is the name "
        "of one of its heads",
    )
    group.add_argument("--url-auth", metavar="USER:PASSWORD", help="what the webui was given as --api-auth")
    group.add_argument(
        "--url-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long an image may take, with waiting for other work of the webui (default: %(default)g)",
    )


def require_remote(parsed: argparse.Namespace) -> None:
    """Refuse what a webui cannot be told.

    Raises:
        OptionError: names the flags, and says what to do.
    """
    from ldznet.webui.controls import BY_NAME

    fields = dataclasses.fields(SegmentOptions)
    odd = [item.name for item in fields if item.name not in (*BY_NAME, *HERE) and _is_given(parsed, item)]
    if local := [_flag(name) for name in (*LOCAL, *odd) if name in odd or getattr(parsed, name)]:
        raise OptionError(
            f"{', '.join(local)} and --url do not go together: the model is the webui's. Leave out either."
        )
    if parsed.head is not None and parsed.head != Path(parsed.head.name):
        raise OptionError(
            f"With --url, --head is the name of a head that the webui has, but {parsed.head} is a path. Give the "
            "name alone; GET /ldznet/heads lists them."
        )
    if not 0 < parsed.url_timeout <= LONGEST:
        raise OptionError(
            f"--url-timeout is {parsed.url_timeout:g}, but it must be more than 0 and at most {LONGEST:,} seconds."
        )


def _is_given(parsed: argparse.Namespace, item: dataclasses.Field[Any]) -> bool:
    return bool(getattr(parsed, item.name) != item.default)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def model_key(parsed: argparse.Namespace) -> list[Any]:
    """Tells the webui's checkpoint and heads from others.

    Raises:
        HostError: there is no such webui, or it has no checkpoint; says what is there.
    """
    server = Server.of(parsed)
    there = server.ask("GET", "/ldznet/heads")
    if not there.get("checkpoint"):
        raise HostError(f"The webui at {server.shown} has no checkpoint that can be used. Choose one in its page.")
    head = str(parsed.head) if parsed.head else None
    names = {one["name"]: one["sha256"] for one in there["heads"]}
    if head and head not in names:
        known = ", ".join(names) or "none"
        raise OptionError(f"The webui at {server.shown} has no head {head!r} (there: {known}). Give one of them.")
    heads = names[head] if head else names
    return [server.shown, there["checkpoint"], there.get("fingerprint"), parsed.method, heads]


def connect(parsed: argparse.Namespace, voice: Voice) -> RemoteSegmenter:
    """What segments in place of a model."""
    server = Server.of(parsed)
    voice.note(f"segmenting with the webui at {server.shown}")
    return RemoteSegmenter(server, parsed.method, str(parsed.head) if parsed.head else None)


class RemoteSegmenter:
    """As ldznet.segmenter.Segmenter, as far as the command needs it."""

    def __init__(self, server: Server, method: str, head: str | None) -> None:
        self._server = server
        self._asked = {"method": method, **({"head": head} if head else {})}
        self.image: Any = None  # of Pillow, RGB

    def set_image(self, image: ImageSource, options: SegmentOptions) -> None:
        """Read it here, with all that is read here and not there."""
        from ldznet.images.reading import load_image

        red, green, blue = (int(options.background[start : start + 2], 16) for start in (1, 3, 5))
        self.image = load_image(image, background=(red, green, blue))

    def segment(
        self, prompts: Sequence[str], options: SegmentOptions, *, negative_prompts: Sequence[str] = ()
    ) -> Segmentation:
        """Ask the webui.

        Raises:
            HostError: it does not answer, or refuses. ImageError: the picture is too large to be sent.
        """
        from ldznet.webui.api.base64_png import encode

        told = dataclasses.asdict(options)
        body = {
            "image": encode(self.image),
            "prompt": list(prompts),
            "negative_prompt": list(negative_prompts),
            **self._asked,
            **{name: told[name] for name in ASKED},
            "return_mask": False,
            "return_probabilities": True,
            "probability_size": "picture" if options.refine else "network",
        }
        return _segmentation(self._server.ask("POST", "/ldznet/segment", body), self._server.shown)


def _segmentation(answer: dict[str, Any], where: str) -> Segmentation:
    import numpy as np
    import torch

    from ldznet.result import Segmentation
    from ldznet.webui.api.base64_png import decode_probability

    try:
        words = [*answer["prompts"], *answer["negative_prompts"]]
        maps = np.stack([decode_probability(one["probabilities"]) for one in words])
        return Segmentation(
            tuple(one["prompt"] for one in answer["prompts"]),
            tuple(one["prompt"] for one in answer["negative_prompts"]),
            (answer["height"], answer["width"]),
            torch.from_numpy(maps),
            answer["record"],
            tuple(answer["notes"]),
        )
    except (KeyError, TypeError, ValueError, OSError) as why:
        raise HostError(
            f"The answer of {where} is not what ldznet understands ({type(why).__name__}: {why}). Give both the "
            "same version of ldznet."
        ) from why


# --- HTTP --------------------------------------------------------------------------------------------


class Server:
    """The address of a webui, and what it says."""

    def __init__(self, address: str, auth: str | None = None, timeout: float = 600.0) -> None:
        self._at = _split(address)
        self.shown = self._at._replace(netloc=self._at.netloc.rpartition("@")[2]).geturl()  # without a password
        if auth is None and self._at.username is not None:
            auth = f"{unquote(self._at.username)}:{unquote(self._at.password or '')}"
        if auth is not None and ":" not in auth:
            raise OptionError("--url-auth needs a name, a colon and a password, such as ann:secret.")
        self._headers = {"Content-Type": "application/json"}
        if auth is not None:
            self._headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
        self._timeout = timeout

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Server:
        """By the flags of `add_server`."""
        return cls(parsed.url, parsed.url_auth, parsed.url_timeout)

    def ask(self, verb: str, path: str, body: Any = None) -> dict[str, Any]:
        """One request -> the object that is its answer.

        Raises:
            HostError: no answer, none of ldznet's, or a refusal, whose text is passed on.
        """
        from ldznet.webui.limits import LONGEST_BODY

        data = None if body is None else json.dumps(body).encode()
        if data is not None and len(data) > LONGEST_BODY:
            raise ImageError(
                f"The picture takes {len(data):,} bytes to send, but a webui reads at most {LONGEST_BODY:,}. Make "
                "it smaller."
            )
        try:
            status, reason, text = self._exchange(verb, path, data)
        except TimeoutError as why:
            raise HostError(
                f"The webui at {self.shown} did not answer in time. It may be busy: wait, or give a longer "
                "--url-timeout."
            ) from why
        except (OSError, UnicodeError, http.client.HTTPException) as why:  # UnicodeError: what is no name
            said = getattr(why, "strerror", None) or str(why) or type(why).__name__
            raise HostError(
                f"The webui at {self.shown} does not answer ({said}). Check the address, and that the webui runs."
            ) from why
        return self._understood(status, reason, text, path)

    def _exchange(self, verb: str, path: str, data: bytes | None) -> tuple[int, str, bytes]:
        secure = self._at.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        assert self._at.hostname is not None
        connection = kind(self._at.hostname, self._at.port, timeout=min(CONNECT, self._timeout))
        try:
            connection.connect()
            connection.sock.settimeout(self._timeout)
            try:
                connection.request(verb, self._at.path + path, data, self._headers)
            except ConnectionError:  # refused before all was sent; the reason can still be read
                if connection.sock is None:
                    raise
            answer = connection.getresponse()
            return answer.status, answer.reason, answer.read()
        finally:
            connection.close()

    def _understood(self, status: int, reason: str, text: bytes, path: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if status == 200 and isinstance(found, dict):
            return found
        if status == 401:
            raise OptionError(
                f"The webui at {self.shown} wants a name and a password, or others. Give those of its --api-auth "
                "with --url-auth USER:PASSWORD."
            )
        detail = found.get("detail") if isinstance(found, dict) else None
        if isinstance(detail, str) and detail and status not in (404, 405):
            raise HostError(f"The webui at {self.shown} says: {detail}")
        raise HostError(
            f"What answers at {self.shown} is no webui with ldznet and an API ({path}: {status} {reason}). Check "
            "the address, install the extension, and start the webui with --api."
        )


def _split(address: str) -> SplitResult:
    text = address if "://" in address else f"http://{address}"
    try:
        at = urlsplit(text.rstrip("/"))
        _ = at.port  # raises where it is no number
    except ValueError as why:
        raise OptionError(f"--url is no address ({why}). Give one such as http://127.0.0.1:7860.") from why
    if at.scheme not in ("http", "https") or not at.hostname or at.query or at.fragment:
        raise OptionError("--url is no address of a webui. Give one such as http://127.0.0.1:7860.")
    return at
