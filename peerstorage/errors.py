"""Everything that can be refused, split by whose fault it is."""


class PeerstorageError(Exception):
    """Root of all errors that this package raises on purpose."""


class LineError(PeerstorageError):
    """A peer can't be reached, doesn't keep to BOLT 8, or a deadline passed."""


class MessageError(PeerstorageError):
    """A peer sent a message that breaks BOLT 1 or 2."""


class SealError(PeerstorageError):
    """A sealed blob doesn't open with our key. Says nothing more: the caller can't know why either."""


class FormatError(PeerstorageError):
    """A plaintext (backup, channel entry, extension) breaks its format."""


class StoreError(PeerstorageError):
    """A record in our own datastore can't be read, or the datastore refused."""


class SecretError(PeerstorageError):
    """A hsm_secret, mnemonic or passphrase that no key can be made of."""


class ChainError(PeerstorageError):
    """A Bitcoin node or an Esplora server can't be reached, or refused what was asked."""


class OptionError(PeerstorageError):
    """A configuration option has a value that is not allowed."""


class UsageError(PeerstorageError):
    """The caller of an RPC asked for something that can't be done; `code` is the JSON-RPC error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


# JSON-RPC error codes of our methods; README.md lists them for callers.
INVALID_PARAMS = -32602
STILL_RECOVERING = 2100
NOTHING_TO_SEND = 2101
NOT_CONNECTED = 2102
NOT_OFFERED = 2103
SOURCE_UNREADABLE = 2104
SWITCHED_OFF = 2105
NODE_REFUSED = 2106
STILL_ALIVE = 2107
NOT_HEARD = 2108
NOT_SYNCED = 2109
NOT_STORED = 2110
STILL_NEEDED = 2111
