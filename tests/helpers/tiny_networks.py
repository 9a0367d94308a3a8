"""Networks of other libraries, tiny and random, in the folders and files that they are saved in."""

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries are imported

import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

SIDE = 64
CLIP = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": SIDE,
        "layers": 1,
        "width": 32,
        "patch_size": 16,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def timm_folder(folder: Path) -> Path:
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7)
    about = {"input_size": (3, SIDE, SIDE), "crop_pct": 0.9, "mean": (0.4, 0.5, 0.6)}
    network.pretrained_cfg = {**network.pretrained_cfg, **about}
    timm.models.save_for_hf(network, str(folder), safe_serialization=True)
    return folder


def clip_folder(folder: Path, **about: Any) -> Path:
    import open_clip

    torch.manual_seed(0)
    folder.mkdir()
    network = open_clip.CLIP(**CLIP)
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], **about}
    described = {"model_cfg": CLIP, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def hf_folder(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

    torch.manual_seed(0)
    config = Dinov2Config(image_size=SIDE, patch_size=16, mlp_ratio=1, **SMALL)
    Dinov2Model(config).save_pretrained(folder)
    size = {"height": SIDE, "width": 48}
    ViTImageProcessor(size=size, resample=3, image_mean=[0.3, 0.4, 0.5]).save_pretrained(folder)
    return folder


def hf_clip_folder(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    text = {"vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"image_size": SIDE, "patch_size": 16}
    parts = {"text_config": {**text, **SMALL}, "vision_config": {**vision, **SMALL}}
    CLIPModel(CLIPConfig(projection_dim=24, **parts)).save_pretrained(folder)
    size, crop = {"shortest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size=size, crop_size=crop).save_pretrained(folder)
    return folder


def sentence_folder(folder: Path) -> Path:
    """Write a network of transformers with a mean over tokens and a dense layer after it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    inner = folder.with_name(f"{folder.name}-inner")
    ViTModel(ViTConfig(image_size=SIDE, patch_size=16, **SMALL)).save_pretrained(inner)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(inner)
    logging.disable(logging.ERROR)  # it tries to write an example with words
    try:
        first = SentenceTransformer(str(inner), device="cpu")
        modules = [*first, Dense(32, 20), Normalize()]
        whole = SentenceTransformer(modules=modules, device="cpu")
        whole.save_pretrained(str(folder), create_model_card=False)
    finally:
        logging.disable(logging.NOTSET)
    return folder


class Photo(torch.nn.Module):
    """A network from (n, 3, height, width) to (n, 12)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, 12, 5, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.convolution(images)).mean((2, 3))


def export(file: Path, dynamic: tuple[int, ...] = (0,), batch: int = 2) -> Path:
    """Export `Photo` as PyTorch does, with some dimensions of its input left open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is older
        torch.onnx.export(
            Photo().eval(),
            (torch.zeros(batch, 3, SIDE, SIDE),),
            str(file),
            input_names=["image"],
            output_names=["vector"],
            dynamic_axes={"image": dict.fromkeys(dynamic, "any"), "vector": {0: "any"}}
            if dynamic
            else None,
            dynamo=False,
        )
    return file


def write_onnx(
    file: Path,
    shape: list[int | str],
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]],
    outputs: dict[str, list[int | str]],
    *,
    kind: int = TensorProto.FLOAT,
    others: dict[str, list[int | str]] | None = None,
    constants: dict[str, npt.NDArray[Any]] | None = None,
) -> Path:
    """Write a network of some nodes whose first input is `image`."""
    inputs = [helper.make_tensor_value_info("image", kind, shape)]
    for name, size in (others or {}).items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, size))
    made = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in outputs.items()
    ]
    graph = helper.make_graph(
        [helper.make_node(what, ins, outs, **options) for what, ins, outs, options in nodes],
        "tiny",
        inputs,
        made,
        [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file


def noise(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
