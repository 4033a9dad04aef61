"""Small CLIP models with random weights, on disk, as open_clip and transformers read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WIDTH, DIMENSION = 16, 8


def open_clip_config(size: int = 8, patch: int = 4) -> dict[str, Any]:
    """Configuration of a CLIP of open_clip with two blocks in each tower."""
    return {
        "embed_dim": DIMENSION,
        "vision_cfg": {
            "image_size": size,
            "layers": 2,
            "width": WIDTH,
            "head_width": 8,
            "patch_size": patch,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": WIDTH,
            "heads": 2,
            "layers": 2,
        },
    }


def save_open_clip(folder: Path, **options: int) -> str:
    """A small CLIP in a folder; its name as a network."""
    import open_clip

    config = open_clip_config(**options)
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"}
    about = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**config)
        for parameter in model.parameters():  # biases are zero and scales one otherwise
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 0.5, 0.3)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"open_clip:local-dir:{folder}"


def save_hub_clip(folder: Path) -> str:
    """A small CLIPModel with tokenizer and image processor in a folder; its name as a network."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{each}</w>" for each in letters)]
    (folder / "vocab.json").write_text(json.dumps({each: i for i, each in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    shape = {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config={
            **shape,
            "vocab_size": len(tokens),
            "max_position_embeddings": 32,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**shape, "image_size": 8, "patch_size": 4},
        projection_dim=DIMENSION,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config)
    model.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
    ).save_pretrained(folder)
    return f"hf_clip:{folder}"
