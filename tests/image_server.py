"""Image servers for the tests, good and hostile: on loopback, with TLS from an authority of the test's own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import gzip
import io
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

NAMES = ("localhost", "images.test", "*.images.test", "plain.test")


def picture(*, size: tuple[int, int] = (32, 32), kind: str = "PNG", colour: str = "red", **save: Any) -> bytes:
    """A real image."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format=kind, **save)
    return buffer.getvalue()


def as_data_url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


GOOD = picture()
BOMB = gzip.compress(bytes(10 * 1024 * 1024))


@dataclass
class ImageServer:
    """Answers by path, and remembers who came with what."""

    port: int = 0
    scheme: str = "https"
    connections: int = 0
    open: int = 0
    most_open: int = 0
    requests: list[str] = field(default_factory=list)
    """The heads of the requests."""
    redirect_to: str = ""
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def asked(self, times: int) -> None:
        """Wait until so many requests have come."""
        async with self.came:
            await self.came.wait_for(lambda: len(self.requests) >= times)

    def url(self, path: str, host: str = "localhost") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                async with self.came:
                    self.requests.append(head)
                    self.came.notify_all()
                await self.answer(head.split()[1], writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError, _HangUpError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        """The good paths; the hostile ones are in `HOSTILE`."""
        match path.partition("?")[0]:
            case "/good.png":
                writer.write(reply(GOOD, "Set-Cookie: crumb=1"))
            case "/a-moment.png":
                await asyncio.sleep(0.1)
                writer.write(reply(GOOD))
            case "/called-html.png":
                writer.write(reply(GOOD, "Content-Type: text/html"))
            case "/chunked.png":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD))
            case "/moved":
                writer.write(
                    f"HTTP/1.1 302 Found\r\nLocation: {self.redirect_to}\r\nContent-Length: 0\r\n"
                    "Connection: close\r\n\r\n".encode()
                )
                raise _HangUpError
            case other:
                await HOSTILE[other](writer)
                raise _HangUpError


class _HangUpError(Exception):
    pass


def reply(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def pour(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """For ever, or until nobody listens."""
    while not writer.is_closing():
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)  # `drain` does not let go when the connection is lost


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + GOOD)
    await pour(writer, bytes(64 * 1024))


async def endless_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await pour(writer, b"10000\r\n" + bytes(0x10000) + b"\r\n")


async def endless_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    await pour(writer, b"X-Filler: " + b"x" * 1000 + b"\r\n")


async def drops(writer: asyncio.StreamWriter) -> None:
    """A byte at a time."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"\x89")
        await writer.drain()
        await asyncio.sleep(0.05)


async def claims_5_gb(writer: asyncio.StreamWriter) -> None:
    writer.write(reply(b"", length=5 * 1024**3))
    await pour(writer, bytes(64 * 1024))


async def claims_more(writer: asyncio.StreamWriter) -> None:
    writer.write(reply(GOOD, length=len(GOOD) + 1))


async def bomb(writer: asyncio.StreamWriter) -> None:
    """10 MB in 10 KB."""
    writer.write(reply(BOMB, "Content-Encoding: gzip"))


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n" * 3)


async def missing(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    """Says nothing and goes."""


HOSTILE = {
    "/endless": endless,
    "/endless-chunks": endless_chunks,
    "/endless-head": endless_head,
    "/drops": drops,
    "/5-gb": claims_5_gb,
    "/claims-more": claims_more,
    "/bomb": bomb,
    "/silent": silent,
    "/no-http": no_http,
    "/missing": missing,
    "/hangs-up": hangs_up,
}


@dataclass(frozen=True)
class Authority:
    """A test CA: its certificate, and a server certificate for `NAMES`."""

    ca_file: Path
    server: ssl.SSLContext


def make_authority(directory: Path) -> Authority:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("Test CA", "localhost")]

    def certificate(subject: int, *extensions: x509.ExtensionType) -> x509.Certificate:
        builder = x509.CertificateBuilder(names[0], names[subject], keys[subject].public_key(), 1 + subject)
        builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        for extension in (*extensions, x509.SubjectKeyIdentifier.from_public_key(keys[subject].public_key())):
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
        return builder.add_extension(issuer, critical=False).sign(keys[0], hashes.SHA256())

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = certificate(0, x509.BasicConstraints(True, 0), usage)
    server = certificate(1, x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES]))
    pem = serialization.Encoding.PEM
    ca_file, server_file = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(ca.public_bytes(pem))
    private = keys[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    server_file.write_bytes(server.public_bytes(pem) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file)
    return Authority(ca_file, context)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@contextlib.asynccontextmanager
async def running(server: ImageServer, context: ssl.SSLContext | None) -> AsyncIterator[ImageServer]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    yield server
    listener.close()


@pytest.fixture
async def image_server(authority: Authority) -> AsyncIterator[ImageServer]:
    """Speaks TLS."""
    async with running(ImageServer(), authority.server) as server:
        yield server


@pytest.fixture
async def plain_image_server() -> AsyncIterator[ImageServer]:
    async with running(ImageServer(scheme="http"), None) as server:
        yield server


_targets: list[str] | None = None


def _note_connection(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _targets is not None and isinstance(arguments[1], tuple):
        _targets.append(arguments[1][0])


sys.addaudithook(_note_connection)


@pytest.fixture
def connected_to() -> Iterator[list[str]]:
    """The addresses that this process tried to connect to, as the interpreter itself reports it."""
    global _targets  # noqa: PLW0603 - an audit hook can never be taken off
    _targets = []
    yield _targets
    _targets = None
