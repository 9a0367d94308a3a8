"""Networks for images and words of open_clip: `clip:ViT-B-32/laion2b_s34b_b79k`.

A name of open_clip with the tag of its weights, `hf-hub:OWNER/NAME`, or a folder with
`open_clip_config.json` and weights. https://github.com/mlfoundations/open_clip
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import factory
from open_clip.model import _build_vision_tower
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import nn

from lookalike.errors import LookalikeError
from lookalike.models.libraries.descriptions import of_open_clip
from lookalike.models.libraries.loaded import Loaded
from lookalike.models.weights import AUTO

_SIMPLE_OPTIONS = {"additional_special_tokens", "clean", "reduction_mask"}
_HF_OPTIONS = {"clean", "language", "strip_sep_token"}
"""Options of tokenizers that an index may set. Others name files, or let code run."""


class Pictures(nn.Module):
    """The images' side: maps normalised images (n, 3, height, width) to vectors (n, width)."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images."""
        found = self.visual(images)
        vectors: torch.Tensor = found[0] if isinstance(found, tuple) else found  # else tokens too
        return vectors


class Words(nn.Module):
    """The text side: maps tokens, int64 (n, length), to vectors (n, width)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed tokens."""
        vectors: torch.Tensor = self.model.encode_text(tokens)  # type: ignore[operator]
        return vectors


def load(name: str, weights: str) -> Loaded:
    """Load both sides of a network; `weights` may be a tag or a file."""
    source, shown, tag = _source(name, weights)
    about = _config(source)
    known = open_clip.get_pretrained_cfg(source, tag) if tag else {}
    fast_gelu = bool(known.get("quick_gelu", about.get("quick_gelu", False)))
    model = open_clip.create_model(
        source,
        pretrained=tag,
        force_quick_gelu=fast_gelu,
        pretrained_text=False,
        require_pretrained=True,
    )
    vision = {**about["vision_cfg"], "timm_model_pretrained": False}
    return Loaded(
        f"clip:{shown}",
        Path(tag).name if tag else "pretrained",
        Pictures(model.visual.float()).eval(),
        of_open_clip(model.visual.preprocess_cfg),
        {
            "library": "clip",
            "embed_dim": about["embed_dim"],
            "vision": vision,
            "quick_gelu": fast_gelu,
            "text": about["text_cfg"],
        },
        _words(model),
        _tokenizer(source, about),
    )


def _source(name: str, weights: str) -> tuple[str, str, str | None]:
    """Return what open_clip takes as the name, the name to show, and a tag or file of weights."""
    if Path(name).is_dir() or name.startswith(("hf-hub:", "local-dir:")):
        if weights != AUTO:
            raise LookalikeError(f"clip:{name} brings its weights: leave `weights` out")
        if name.startswith("hf-hub:"):
            return name, name.removeprefix("hf-hub:"), None
        folder = name.removeprefix("local-dir:")
        return f"local-dir:{folder}", Path(folder).resolve().name, None
    network, _, tag = name.partition("/")
    if open_clip.get_model_config(network) is None:
        raise LookalikeError(f"open_clip has no network {network!r}: see open_clip.list_models()")
    tags = open_clip.list_pretrained_tags_by_model(network)
    if weights != AUTO:
        if tag:
            raise LookalikeError(f"clip:{name} names its weights: leave `weights` out")
        tag = weights
    tag = tag or next(iter(tags), "")
    if not (tag in tags or Path(tag).is_file()):
        known = f": choose {', '.join(tags[:8])}" if tags else ": set `weights` to a file"
        wanted = f"no weights {tag!r} of" if tag else "no weights of"
        raise LookalikeError(f"open_clip has {wanted} {network}{known}")
    return network, network, tag


def _config(source: str) -> dict[str, Any]:
    """Return the configuration of a network, as `open_clip.get_model_config` does."""
    if source.startswith("local-dir:"):
        file = Path(source.removeprefix("local-dir:"), "open_clip_config.json")
        found = json.loads(file.read_text())["model_cfg"]
    elif source.startswith("hf-hub:"):
        found = factory._get_hf_config(source.removeprefix("hf-hub:"))["model_cfg"]
    else:
        found = open_clip.get_model_config(source)
    return dict(found)


def _words(model: Any) -> nn.Module:
    del model.visual
    return Words(model.float()).eval()


def _tokenizer(source: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the tokenizer; that of transformers with its files, so that none is fetched."""
    text = about["text_cfg"]
    length = int(text.get("context_length") or 77)
    described = {"length": length, "options": dict(text.get("tokenizer_kwargs") or {})}
    if not text.get("hf_tokenizer_name"):
        return {"kind": "simple", **described}
    made = open_clip.get_tokenizer(source)
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        files = {file.name: file.read_text() for file in Path(folder).glob("*.json")}
    return {"kind": "hf", **described, "mode": text.get("tokenizer_mode"), "files": files}


def restore(architecture: Mapping[str, Any]) -> nn.Module:
    """Make the images' side again, without weights."""
    vision = {**architecture["vision"], "timm_model_pretrained": False}
    gelu = bool(architecture["quick_gelu"])
    return Pictures(_build_vision_tower(int(architecture["embed_dim"]), vision, gelu))


def tokenizer(about: Mapping[str, Any]) -> Any:
    """Return the tokenizer that `load` described: a callable from texts to int64 (n, length)."""
    length, options = int(about["length"]), dict(about["options"])
    is_simple = about["kind"] == "simple"
    if others := options.keys() - (_SIMPLE_OPTIONS if is_simple else _HF_OPTIONS):
        raise ValueError(f"a tokenizer's option {min(others)[:40]!r}")
    if is_simple:
        return SimpleTokenizer(context_length=length, **options)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in about["files"].items():
            if Path(name).name != name or not name.endswith(".json"):
                raise ValueError(f"a tokenizer's file {name[:40]!r}")
            Path(folder, name).write_text(content)
        return HFTokenizer(
            folder,
            context_length=length,
            tokenizer_mode=about["mode"],
            trust_remote_code=False,
            **options,
        )
