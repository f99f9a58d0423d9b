"""Guest memory of which another CPU of the guest stores a word while the host uses it."""

from __future__ import annotations


class RacingMemory:
    """``memory`` as 64-bit words, for a host; only its slices race."""

    def __init__(self, memory: memoryview[int]) -> None:
        self._memory = memory
        self.window: RacingWords | None = None

    def __len__(self) -> int:
        return len(self._memory)

    def __getitem__(self, where: slice) -> RacingWords:
        self.window = RacingWords(self._memory[where])
        return self.window

    def arm(self, word: int, value: int) -> None:
        """Store ``value`` after the next access to ``word`` of the page that was last sliced."""
        if self.window is not None:
            self.window.armed = word, value


class RacingWords:
    """A page's words. After an access that touches the armed word, its value is stored, once."""

    def __init__(self, words: memoryview[int]) -> None:
        self.words = words
        self.armed: tuple[int, int] | None = None

    def __getitem__(self, where: int | slice) -> int | memoryview[int]:
        if isinstance(where, slice):
            # A copy: what the host slices it takes at this moment.
            copy = memoryview(bytearray(self.words[where])).cast("Q")
            first, end, _ = where.indices(len(self.words))
            self.touched(first, end)
            return copy
        value = self.words[where]
        self.touched(where, where + 1)
        return value

    def __setitem__(self, where: int, value: int) -> None:
        self.words[where] = value
        self.touched(where, where + 1)

    def cast(self, format_: str) -> RacingBytes:
        """The page as bytes, for a host that stores them one by one."""
        assert format_ == "B"
        return RacingBytes(self)

    def touched(self, first: int, end: int) -> None:
        """Words ``first`` to ``end`` - 1 have just been accessed."""
        if self.armed is not None and first <= self.armed[0] < end:
            (word, value), self.armed = self.armed, None
            self.words[word] = value


class RacingBytes:
    """The same page by bytes."""

    def __init__(self, words: RacingWords) -> None:
        self._words = words
        self._bytes = words.words.cast("B")

    def __setitem__(self, where: int, value: int) -> None:
        self._bytes[where] = value
        self._words.touched(where // 8, where // 8 + 1)
