"""Pictures from clients: data URLs, uploads and, if allowed, the web; local files are never opened."""

from __future__ import annotations

import asyncio
import hashlib
import io
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import BinaryIO
from urllib.parse import urljoin

import httpx
from PIL import Image

from mblip.errors import InputError
from mblip.storage import UnreadableImage, decode_image
from mblip.storage.encoded import decode_picture

UPLOAD = "upload:"
_LAST_PORT = 65_535
_REDIRECTS = 3
# Number of resized pictures that are kept, and pixels of the largest. A photo is often asked about more than once, and
# decoding it takes longer than a small model's answer.
_KEPT, _SMALL = 64, 1 << 20
_PREVIEW = 1280  # pixels of the longer side
Resolve = Callable[[str, int], Awaitable[list[str]]]


class BadPicture(InputError):
    """A picture that a client sent or named cannot be used."""


class RequestPictures:
    """Fetches and decodes the pictures of requests.

    Args:
        shrink: Resizes a picture to the model's input size, so that waiting requests take little memory.
        remote: Whether http(s) addresses are fetched.
        max_bytes: Largest size of a fetched file.
        seconds: Maximum seconds to fetch a picture, redirects included.
        decoders: Number of pictures that are decoded at a time; each may take 256 MiB for a moment.
        resolve: Returns the addresses of a host and port.
    """

    def __init__(
        self,
        shrink: Callable[[Image.Image], Image.Image],
        *,
        remote: bool = False,
        max_bytes: int = 20 << 20,
        seconds: float = 10.0,
        decoders: int = 2,
        resolve: Resolve | None = None,
    ) -> None:
        self._shrink = shrink
        self._remote, self._max_bytes, self._seconds = remote, max_bytes, seconds
        self._resolve = resolve or _resolve
        self._decoding = asyncio.Semaphore(decoders)
        self._known: dict[str, Image.Image] = {}  # the most recently used one is last

    async def open(self, urls: Sequence[str], uploads: Mapping[str, bytes]) -> list[tuple[str, Image.Image]]:
        """The pictures of a request, each with the hash of its content.

        Raises:
            BadPicture: A picture cannot be fetched or decoded.
        """
        return [await self._open(url, uploads) for url in urls]

    async def _open(self, url: str, uploads: Mapping[str, bytes]) -> tuple[str, Image.Image]:
        url = url.strip()
        if url[:5].lower() == "data:":
            data = _from_data_url(url)
        elif url.startswith(UPLOAD):
            name = url.removeprefix(UPLOAD)
            if name not in uploads:
                raise BadPicture(f"the request has no uploaded file {name[:100]!r}")
            data = uploads[name]
        elif re.match(r"https?://", url, re.IGNORECASE):
            if not self._remote:
                raise BadPicture("pictures from the web are switched off here; send the picture as a data URL")
            data = await self._fetch(url)
        else:
            raise BadPicture("image_url must be a data URL (data:image/jpeg;base64,...), upload:NAME or http(s)")
        return await self.decode(data)

    async def decode(self, data: bytes) -> tuple[str, Image.Image]:
        """The picture in a file's bytes, with their hash.

        Raises:
            BadPicture: It cannot be decoded.
        """
        key = hashlib.sha256(data).hexdigest()
        picture = self._known.pop(key, None)
        if picture is None:
            async with self._decoding:
                picture = await asyncio.to_thread(self._decode, data)
        if picture.width * picture.height <= _SMALL:
            self._known[key] = picture
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return key, picture

    async def preview(self, file: BinaryIO) -> bytes | None:
        """A JPEG of the picture in an open file, for browsers that cannot draw its format; None if it is no picture."""
        async with self._decoding:  # read inside, so that waiting requests take no memory
            return await asyncio.to_thread(_to_jpeg, file)

    def _decode(self, data: bytes) -> Image.Image:
        try:
            return self._shrink(decode_image(data, "image"))
        except UnreadableImage as error:
            raise BadPicture(f"the picture cannot be used: {error.reason}") from error

    async def _fetch(self, url: str) -> bytes:
        try:
            async with (
                asyncio.timeout(self._seconds),
                httpx.AsyncClient(trust_env=False, timeout=self._seconds) as client,
            ):
                for _ in range(_REDIRECTS + 1):
                    found = await self._get(client, url)
                    if isinstance(found, bytes):
                        return found
                    url = found
        except (TimeoutError, httpx.TimeoutException) as error:
            raise BadPicture(f"the picture did not come within {self._seconds:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, ValueError) as error:
            raise BadPicture("the picture cannot be fetched from its address") from error
        raise BadPicture(f"the picture's address redirects more than {_REDIRECTS} times")

    async def _get(self, client: httpx.AsyncClient, url: str) -> bytes | str:
        """The file at an address, or the address that it redirects to."""
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
            raise BadPicture("the picture's address, or where it redirects to, is not plain http(s)")
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        if port > _LAST_PORT:
            raise BadPicture(f"the picture's address, or where it redirects to, has a port above {_LAST_PORT}")
        addresses = await self._resolve(parsed.host, port)
        if not addresses or not all(map(is_public, addresses)):
            raise BadPicture("the picture's address, or where it redirects to, is not on the public internet")
        # Connect to the address that was checked, because a second look-up could give another one.
        pinned = parsed.copy_with(host=addresses[0], port=port)
        headers = {"Host": parsed.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"}
        async with client.stream(
            "GET", pinned, headers=headers, extensions={"sni_hostname": parsed.raw_host.decode("ascii")}
        ) as response:
            if response.is_redirect:
                return str(urljoin(url, response.headers.get("location", "")))
            if response.status_code != httpx.codes.OK:
                raise BadPicture(f"the picture's server answers with status {response.status_code}")
            data = bytearray()
            async for piece in response.aiter_raw():
                data += piece
                if len(data) > self._max_bytes:
                    raise BadPicture(f"the picture is larger than {self._max_bytes:,} bytes")
            return bytes(data)


def _to_jpeg(file: BinaryIO) -> bytes | None:
    try:
        picture = decode_image(file.read(), "image")
    except UnreadableImage:
        return None
    picture.thumbnail((_PREVIEW, _PREVIEW))
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=90)
    return written.getvalue()


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, and not in a tunnel that may lead elsewhere."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in _UNICAST or ip.sixtofour or ip.teredo):
        return False
    return ip.is_global and not ip.is_multicast


# The IPv6 range in public use. Addresses outside of it often embed an IPv4 address.
_UNICAST = ipaddress.ip_network("2000::/3")


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def _from_data_url(url: str) -> bytes:
    try:
        return decode_picture(url)
    except ValueError as error:
        raise BadPicture(f"the data URL cannot be used: {error}") from error
