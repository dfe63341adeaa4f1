"""lightningd's datastore: a tree of keys where only leaves hold data.

Listing a key answers it and its immediate children with their data; what lies deeper is answered as a key only.
"""

from dataclasses import dataclass, field

from .common import INVALID_PARAMS, Json, RpcError

Key = tuple[str, ...]

MODES = {
    "must-create": (False, True, False),  # must exist, must not exist, append
    "must-replace": (True, False, False),
    "create-or-replace": (False, False, False),
    "must-append": (True, False, True),
    "create-or-append": (False, False, True),
}


@dataclass(frozen=True)
class Item:
    """Data and how often it has been replaced."""

    data: bytes
    generation: int = 0


@dataclass
class Datastore:
    """The items by key: tests may read and change them."""

    items: dict[Key, Item] = field(default_factory=dict)

    def put(self, *key: str, data: bytes) -> None:
        """Create or replace without any check."""
        old = self.items.get(key)
        self.items[key] = Item(data, old.generation + 1 if old else 0)

    def get(self, *key: str) -> bytes | None:
        """The data of a key, None if there is none."""
        item = self.items.get(key)
        return item.data if item else None

    def under(self, *prefix: str) -> dict[Key, bytes]:
        """All keys below a prefix, with data."""
        return {
            key: item.data
            for key, item in sorted(self.items.copy().items())
            if key[: len(prefix)] == prefix and len(key) > len(prefix)
        }

    def copy(self) -> "Datastore":
        """An independent copy."""
        return Datastore(dict(self.items))

    def datastore(
        self,
        key: object,
        string: str | None = None,
        hex: str | None = None,
        mode: str = "must-create",
        generation: int | None = None,
    ) -> Json:
        """The RPC of this name."""
        path = parse_key(key)
        data = _data(string, hex)
        if mode not in MODES:
            raise RpcError(INVALID_PARAMS, f"mode: should be one of {', '.join(MODES)}")
        must_exist, must_not_exist, append = MODES[mode]
        if generation is not None and not must_exist:
            raise RpcError(INVALID_PARAMS, "generation only valid with must-replace or must-append")
        old = self.items.get(path)
        self._check_tree(path)
        if must_not_exist and old:
            raise RpcError(1202, "Key already exists")
        if must_exist and not old:
            raise RpcError(1203, "Key does not exist")
        if old and generation is not None and generation != old.generation:
            raise RpcError(1204, "generation is different")
        if append and old:
            data = old.data + data
        self.items[path] = Item(data, old.generation + 1 if old else 0)
        return self._answer(path)

    def _check_tree(self, path: Key) -> None:
        if path in self.items:
            return
        if any(key[: len(path)] == path for key in list(self.items)):
            raise RpcError(1205, "Key has children already")
        for size in range(1, len(path)):
            if path[:size] in self.items:
                raise RpcError(1206, f"Parent key [{','.join(path[:size])}] exists")

    def _answer(self, path: Key) -> Json:
        item = self.items[path]
        answer: Json = {"key": list(path), "generation": item.generation, "hex": item.data.hex()}
        text = _text(item.data)
        if text is not None:
            answer["string"] = text
        return answer

    def listdatastore(self, key: object = None) -> Json:
        """The RPC of this name."""
        prefix = parse_key(key) if key is not None else ()
        answer: list[Json] = []
        for path in sorted(k for k in list(self.items) if k[: len(prefix)] == prefix):
            if len(path) <= len(prefix) + 1:
                answer.append(self._answer(path))
            elif not answer or answer[-1] != {"key": list(path[: len(prefix) + 1])}:
                answer.append({"key": list(path[: len(prefix) + 1])})
        return {"datastore": answer}

    def deldatastore(self, key: object, generation: int | None = None) -> Json:
        """The RPC of this name."""
        path = parse_key(key)
        if path not in self.items:
            raise RpcError(1200, "Key does not exist")
        if generation is not None and generation != self.items[path].generation:
            raise RpcError(1201, "generation is different")
        answer = self._answer(path)
        del self.items[path]
        return answer


def parse_key(key: object) -> Key:
    """A key parameter: a string or a list of at least one."""
    if isinstance(key, list):
        if not key:
            raise RpcError(INVALID_PARAMS, "key: should not be empty")
        return tuple(str(part) for part in key)
    if isinstance(key, str | int):
        return (str(key),)
    raise RpcError(INVALID_PARAMS, "key: should be string or array")


def _data(string: str | None, hex_data: str | None) -> bytes:
    if string is not None and hex_data is not None:
        raise RpcError(INVALID_PARAMS, "Cannot have both hex and string")
    if string is not None:
        return string.encode()
    if hex_data is None:
        raise RpcError(INVALID_PARAMS, "Must have either hex or string")
    try:
        return bytes.fromhex(hex_data)
    except ValueError:
        raise RpcError(INVALID_PARAMS, "hex: should be a hexadecimal string") from None


def _text(data: bytes) -> str | None:
    """The data as text if it is UTF-8 without a NUL."""
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None
