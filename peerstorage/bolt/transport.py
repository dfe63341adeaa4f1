"""BOLT 8: an encrypted and authenticated line to a peer, which we dial.

The cryptography is pyln-proto's LightningConnection. Here is what it leaves out:
- The authentication tag of act two is checked, so whoever answers has the key of the node_id that was dialed.
- A read is whole, a write too. Each has a deadline, and ends within a tenth of a second when it is called off.
- A proxy is for one line alone: nothing is set for the whole process.

Rules:
- Every failure is a LineError that gives the reason in plain words.
- Through a proxy no name is looked up here: the proxy does it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from hashlib import sha256

import socks
from cryptography.exceptions import InvalidTag
from pyln.proto.wire import LightningConnection, PrivateKey, PublicKey, decryptWithAD

from peerstorage.bolt.proxy import Proxy
from peerstorage.errors import LineError

MAX_MESSAGE = 65535
ACT_TWO_LENGTH = 50
CALLED_OFF = "called off"
HUNG_UP = "it hung up"
_SLICE = 0.1


class Deadline:
    """So many seconds from now, or until `stop` is set."""

    def __init__(self, seconds: float, stop: threading.Event | None = None) -> None:
        self._end = time.monotonic() + seconds
        self._stop = stop

    @property
    def left(self) -> float:
        """Seconds, never less than 0."""
        return max(0.0, self._end - time.monotonic())

    def within(self, seconds: float) -> Deadline:
        """So many seconds from now, and not later than this one."""
        return Deadline(min(seconds, self.left), self._stop)

    def anew(self, seconds: float) -> Deadline:
        """So many seconds from now, whatever this one is; called off together with it."""
        return Deadline(seconds, self._stop)

    def slice(self) -> float:
        """How long one wait may last: 0 when the time is over. Raises LineError when it was called off."""
        if self._stop is not None and self._stop.is_set():
            raise LineError(CALLED_OFF)
        return min(_SLICE, self.left)


class Handshake(LightningConnection):  # type: ignore[misc]
    """pyln-proto's, as the initiator, with the check of act two's tag."""

    def __init__(self, connection: object, key: bytes, node_id: bytes) -> None:
        try:
            public = PublicKey(node_id)
        except (ValueError, IndexError) as error:
            raise LineError("its node_id is no key") from error
        super().__init__(connection, public, PrivateKey(key), is_initiator=True)

    def handshake_act_two_initiator(self, m: bytes) -> None:
        """Raises LineError."""
        before: bytes = self.handshake["h"]
        if m[0] != 0:
            raise LineError(f"it speaks version {m[0]} of BOLT 8's handshake, and we only version 0")
        try:
            super().handshake_act_two_initiator(m)
        except ValueError as error:
            raise LineError("its answer to the handshake has no valid key") from error
        try:
            decryptWithAD(self.temp_k2, self.nonce(0), sha256(before + m[1:34]).digest(), m[34:])
        except InvalidTag as error:
            raise LineError("its answer to the handshake is not authentic: it is another node") from error


class _Wire:
    """What LightningConnection takes for a socket; `deadline` is that of its next calls."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        connection.setblocking(False)
        self._socket = connection
        self.deadline = deadline

    def is_ready(self, event: int, deadline: Deadline) -> bool:
        """Whether it can be read or written before the deadline."""
        poll = select.poll()
        poll.register(self._socket, event)
        while (seconds := deadline.slice()) > 0:
            if poll.poll(seconds * 1000):
                return True
        return False

    def recv(self, length: int) -> bytes:
        """Exactly so many bytes."""
        data = bytearray()
        while len(data) < length:
            if not self.is_ready(select.POLLIN, self.deadline):
                raise LineError("it did not answer in time" if not data else "it did not finish in time")
            with _in_words(), contextlib.suppress(BlockingIOError):
                some = self._socket.recv(length - len(data))
                if not some:
                    raise LineError(HUNG_UP)
                data += some
        return bytes(data)

    def send(self, data: bytes) -> None:
        """All of it."""
        rest = memoryview(data)
        while rest:
            if not self.is_ready(select.POLLOUT, self.deadline):
                raise LineError("it did not take what we sent in time")
            with _in_words(), contextlib.suppress(BlockingIOError):
                rest = rest[self._socket.send(rest) :]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Line:
    """A connection over which both sides have proved who they are; a context manager that hangs up."""

    def __init__(self, wire: _Wire, noise: Handshake) -> None:
        self._wire = wire
        self._noise = noise

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()

    def is_saying_something(self, deadline: Deadline) -> bool:
        """Whether a message, or the end of the connection, begins before the deadline."""
        return self._wire.is_ready(select.POLLIN, deadline)

    def read(self, deadline: Deadline) -> bytes:
        """The next message, type and all; at most 65535 bytes. After a LineError the line is of no use."""
        self._wire.deadline = deadline
        try:
            message: bytes = self._noise.read_message()
        except InvalidTag as error:
            raise LineError("what it said is not authentic") from error
        return message

    def send(self, message: bytes, deadline: Deadline) -> None:
        """A message, type and all."""
        if len(message) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(message)} bytes is over the {MAX_MESSAGE} of BOLT 8")
        self._wire.deadline = deadline
        self._noise.send_message(message)


def dial(
    key: bytes,
    node_id: bytes,
    host: str,
    port: int,
    *,
    proxy: Proxy | None,
    deadline: Deadline,
    handshake: float,
) -> Line:
    """A line to a node. `key`: our private key; `host`: an IP address, a DNS name or a Tor v3 name.

    Connected by the deadline; then the handshake may take so many seconds more. Raises LineError.
    """
    wire = _Wire(_connected(host, port, proxy, deadline), deadline.anew(handshake))
    try:
        noise = Handshake(wire, key, node_id)
        noise.shake()
    except BaseException:
        wire.close()
        raise
    return Line(wire, noise)


def _connected(host: str, port: int, proxy: Proxy | None, deadline: Deadline) -> socket.socket:
    """A socket, made in a thread of its own: neither a name's lookup nor a proxy's work can be ended from here."""
    if host.endswith(".onion") and proxy is None:
        raise LineError("a Tor address can be reached through a proxy only")
    through = proxy if proxy is not None and (proxy.always or host.endswith(".onion")) else None
    result: Future[socket.socket] = Future()
    arguments = (result, host, port, through, deadline.left)
    threading.Thread(target=_connect, args=arguments, name=f"connect {host}", daemon=True).start()
    try:
        return _awaited(result, deadline)
    except LineError:
        # Where it was too late to cancel there is a result, or will be in no time.
        if not result.cancel() and result.exception() is None:
            result.result().close()
        raise


def _awaited(result: Future[socket.socket], deadline: Deadline) -> socket.socket:
    while seconds := deadline.slice():
        with contextlib.suppress(TimeoutError):
            return result.result(seconds)
    raise LineError("no connection in time")


def _connect(
    result: Future[socket.socket], host: str, port: int, proxy: Proxy | None, seconds: float
) -> None:
    """Does it, and hands the socket or a LineError to `result`, if that is still waited for."""
    connection: socket.socket | None = None
    try:
        with _in_words():
            if proxy is None:
                connection = socket.create_connection((host, port), seconds)
            else:
                where = {"proxy_addr": proxy.host, "proxy_port": proxy.port}
                connection = socks.create_connection(
                    (host, port), seconds, proxy_type=socks.SOCKS5, **where, proxy_rdns=True
                )
    except LineError as error:
        if result.set_running_or_notify_cancel():
            result.set_exception(error)
        return
    if result.set_running_or_notify_cancel():
        result.set_result(connection)
    else:
        connection.close()


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Every error of the network as a LineError; that nothing is there yet is none."""
    try:
        yield
    except BlockingIOError:
        raise
    except socks.ProxyError as error:
        raise LineError(f"the proxy says: {error}") from error
    except TimeoutError as error:
        raise LineError("no connection in time") from error
    except ConnectionResetError as error:
        raise LineError(HUNG_UP) from error
    except (OSError, ValueError, OverflowError) as error:
        raise LineError(str(getattr(error, "strerror", None) or error).lower()) from error
