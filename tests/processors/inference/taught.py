"""A tiny model that was taught one call by heart: real weights that really write it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from processors.inference.encoding import Encoding
from processors.inference.generation import Line, Tool

BOOK = (
    Tool(
        name="book",
        description="Pide cita",
        parameters={"type": "object", "properties": {"date": {"type": "string", "description": "El día"}}},
    ),
)
ASKED = [Line("user", "el martes")]
WRITTEN = 'Claro.\n<tool_call>\n{"name": "book", "arguments": {"date": "el martes"}}\n</tool_call>'


def taught(tiny: ModuleType, folder: Path) -> Path:
    """Saved as a folder.  Asked with tools it calls; asked without it says "Hola"."""
    import torch

    tokenizer = tiny.byte_level(tiny.HERMES, ("<|im_end|>", "<|im_start|>"))
    encoding = Encoding(tokenizer)
    model = tiny.causal("qwen2", len(tokenizer), 4096)
    lessons = [
        _lesson(tokenizer, encoding.encode(ASKED, BOOK), WRITTEN),
        _lesson(tokenizer, encoding.encode(ASKED), "Hola"),
    ]
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.05)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(400):
        losses = [model(input_ids=ids, labels=labels).loss for ids, labels in lessons]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            break
    model.eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _lesson(tokenizer: Any, prompt: list[int], words: str) -> tuple[Any, Any]:
    """Only what is to be written counts."""
    import torch

    written = [*tokenizer.encode(words, add_special_tokens=False), tokenizer.eos_token_id]
    return torch.tensor([prompt + written]), torch.tensor([[-100] * len(prompt) + written])
