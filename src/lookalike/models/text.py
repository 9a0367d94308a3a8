"""The text side of a network: words become vectors of the same space as images."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lookalike.errors import LookalikeError, Unreadable

_FILES = ("text.xml", "text.bin", "tokenizer.json")


@dataclass(frozen=True)
class TextSide:
    """The network that embeds words, in OpenVINO's format, with the description of its tokenizer.

    It is large and rarely needed, so that one in a folder is read when it is used.
    """

    contents: tuple[bytes, bytes, bytes] | None = field(default=None, repr=False)
    """Graph, weights, and the tokenizer as JSON."""
    folder: Path | None = None
    checks: tuple[tuple[int, int], ...] = ()
    """Size and CRC-32 of each file in the folder."""

    @classmethod
    def stored(cls, folder: Path, checks: Any) -> Self | None:
        """Return the text side in a folder; None where `save` was never called."""
        if checks is None:
            return None
        found = tuple((int(size), int(crc)) for size, crc in checks)
        if len(found) != len(_FILES):
            raise ValueError("a text side of other files")
        return cls(None, folder, found)

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Return graph, weights and tokenizer. Raises `LookalikeError` for damaged files."""
        if self.contents is not None:
            return self.contents
        assert self.folder is not None
        try:
            graph, data, tokenizer = ((self.folder / name).read_bytes() for name in _FILES)
        except OSError as error:
            raise Unreadable(self.folder, error) from None
        if _checks((graph, data, tokenizer)) != self.checks:
            raise LookalikeError(f"the text side in {self.folder} is damaged: index again")
        return graph, data, tokenizer

    def save(self, folder: Path) -> tuple[tuple[int, int], ...]:
        """Write the files into a folder; return their sizes and checksums."""
        contents = self.read()
        for name, content in zip(_FILES, contents, strict=True):
            (folder / name).write_bytes(content)
        return _checks(contents)


def _checks(contents: Sequence[bytes]) -> tuple[tuple[int, int], ...]:
    return tuple((len(content), zlib.crc32(content)) for content in contents)
