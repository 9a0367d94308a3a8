"""Embed words, with the text side of a network."""

import json
import threading
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from lookalike.errors import LookalikeError, one_line
from lookalike.models import libraries
from lookalike.models.model import Model
from lookalike.models.runtimes import OpenVinoEngine
from lookalike.models.text import TextSide
from lookalike.system.arrays import Vectors
from lookalike.system.extras import MissingExtra

BATCH_TEXTS = 64
"""Texts that are embedded at a time."""


class TextEngine:
    """Embeds texts on this processor. Threads may share it."""

    def __init__(self, side: TextSide, threads: int) -> None:
        graph, data, about = side.read()
        try:
            self._tokenize = libraries.tokenizer(json.loads(about))
        except MissingExtra:
            raise
        except Exception as error:
            raise LookalikeError(f"no tokenizer ({one_line(error)[:200]}): index again") from None
        self._run = OpenVinoEngine(graph, data, "f32", threads, 1)
        self._lock = threading.Lock()  # tokenizers keep caches

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts: float32 (n, width). Texts that are too long are cut."""
        parts = []
        for at in range(0, len(texts), BATCH_TEXTS):
            with self._lock:
                tokens = np.asarray(self._tokenize(list(texts[at : at + BATCH_TEXTS])), np.int64)
            parts.append(self._run(tokens))
        return np.concatenate(parts)


def text_engine(model: Model, threads: int = 0) -> TextEngine:
    """Return the engine for the words of a model, created once for each process.

    Raises `LookalikeError` if the model has no text side.
    """
    if model.text is None:
        raise LookalikeError(
            f"{model.backbone} embeds no words: index with a network that does, such as "
            "`clip:ViT-B-32`"
        )
    return _text_engine(model, threads)


@lru_cache(2)
def _text_engine(model: Model, threads: int) -> TextEngine:
    assert model.text is not None
    return TextEngine(model.text, threads)
