"""What was said already: a peer that does the same again and again must not fill the log."""

from __future__ import annotations

# So much is remembered; then everything may be said once more.
_MOST = 1000


class Once:
    """Keys that came before."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def is_new(self, key: tuple[str, str]) -> bool:
        """Whether a key comes for the first time."""
        if key in self._known:
            return False
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known.add(key)
        return True
