"""Tiny models and tokenizers with random weights, made on the spot: real architectures, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)

HERMES = (
    "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
    "# Tools\n<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools>\n"
    'For each call write\n<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call><|im_end|>\n{% endif %}'
    "{% for message in messages %}{% if not (tools and loop.first and message.role == 'system') %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}{% for call in message.tool_calls or [] %}\n"
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's: what it has of tools stands in the system's turn."""

LLAMA = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{% if tools and message == (messages | selectattr('role', 'equalto', 'user') | first) %}Answer with a call:\n"
    '{"name": function name, "parameters": dictionary}.\n\n'
    "{% for tool in tools %}{{ tool | tojson(indent=4) }}\n\n{% endfor %}{% endif %}"
    "{% if message.tool_calls %}{% set call = message.tool_calls[0].function %}"
    '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}'
    "{% else %}{{ message.content | trim }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Llama 3's: it stands before what the person said first."""

MISTRAL_TOOLS = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message.role == 'user' %}{% if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}"
    "[/AVAILABLE_TOOLS]{% endif %}[INST] {{ message.content }} [/INST]"
    "{% elif message.tool_calls %}[TOOL_CALLS] [{% for call in message.tool_calls %}{{ (call.function | tojson)[:-1] }}"
    """, "id": "{{ call.id[:9] }}"}{% endfor %}]{{ eos_token }}"""
    "{% else %} {{ message.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)

TEXTS = [
    "hola necesito una cita",
    "¿Para qué especialidad?",
    "cardiología el martes a las 3",
    "im_start user </s> INST",
]


def byte_level(template: str | None = None, special: tuple[str, ...] = ("<|endoftext|>",)) -> Any:
    """GPT-2's and Qwen's kind: byte-level BPE, any text comes back as it went in."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        show_progress=False, vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet
    )
    core.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=special[0])
    if len(special) > 1:
        tokenizer.add_special_tokens({"additional_special_tokens": list(special[1:])})
    tokenizer.chat_template = template
    return tokenizer


def unigram(template: str | None = None) -> Any:
    """SentencePiece's kind with control pieces in its vocabulary, where `</s>` is a piece like any other."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(
        {character for text in TEXTS for character in text if character != " "} | set("x<>/s[]|_CAUSEX0123456789abcdef")
    )
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁hola", -1.0), ("cita", -1.0), ("user", -1.0)]
    core = Tokenizer(models.Unigram([*pieces, *((letter, -5.0) for letter in letters)], unk_id=0, byte_fallback=False))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = template
    return tokenizer


def lower_case(template: str | None = None) -> Any:
    """A word tokenizer that writes everything small, marks included: what looked harmless may become a mark."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<eos>", "hola", "cita", "x", "user", "assistant", "<", ">", "eos", "|"]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<eos>")
    tokenizer.add_tokens([AddedToken("<turn>", normalized=True), AddedToken("<end>", normalized=True)])
    tokenizer.chat_template = template
    return tokenizer


def causal(kind: str, vocabulary: int = 400, context: int = 256) -> Any:
    """A causal LM of a few thousand parameters, its weights spread out so that no two logits are near each other."""
    import torch
    import transformers as t

    torch.set_num_threads(1)  # so small a model waits for its threads longer than they compute
    torch.manual_seed(7)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": context}  # fmt: skip
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    configs = {
        "gpt2": lambda: t.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_positions=context, vocab_size=vocabulary, **ends
        ),
        "llama": lambda: t.LlamaConfig(**small, **ends),
        "qwen2": lambda: t.Qwen2Config(**small, **ends),
        "mistral": lambda: t.MistralConfig(**small, sliding_window=64, **ends),
        "gemma2": lambda: t.Gemma2Config(**small, head_dim=8, **ends),
        "mamba": lambda: t.MambaConfig(
            hidden_size=32, num_hidden_layers=2, vocab_size=vocabulary, state_size=4, **ends
        ),
        "bloom": lambda: t.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=vocabulary, **ends),
    }
    model = t.AutoModelForCausalLM.from_config(configs[kind]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model.eval()


def saved(folder: Path, kind: str = "llama", template: str | None = None) -> Path:
    """A model and its tokenizer as a folder of safetensors."""
    special = ("<|endoftext|>",) if template is None else ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    byte_level(template, special).save_pretrained(folder)
    causal(kind).save_pretrained(folder)
    return folder
