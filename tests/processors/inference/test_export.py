"""`cauce model export`: a folder that answers as the model does, or a sentence that says why there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest
from conftest import sometimes
from typer.testing import CliRunner

from streams import cli
from streams.commands import check
from streams.errors import ConfigurationError
from streams.settings import Settings

pytestmark = [pytest.mark.slow]

pytest.importorskip("openvino_genai", reason="OpenVINO is not installed")

from processors.inference import export  # noqa: E402 - it imports what may be missing


def made(folder: Path, name: Path | str, kind: str = "float32") -> Path:
    return export.export(Settings(), str(name), folder, kind, lambda _line: None)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    sometimes(
        [(architecture, kind) for architecture in ("gpt2", "llama", "qwen2", "mistral") for kind in export.KINDS],
        [("gpt2", "int8"), ("llama", "float32"), ("qwen2", "float16"), ("mistral", "int8")],
    ),
)
def test_a_decoder_is_exported_and_says_what_it_said(
    tmp_path: Path, tiny: ModuleType, architecture: str, kind: str
) -> None:
    # What it says is compared by the export itself, with the model as transformers runs it.
    folder = made(tmp_path / "out", tiny.saved(tmp_path / "in", architecture, tiny.CHATML), kind)
    assert {file.name for file in folder.iterdir()} >= {
        "openvino_model.xml", "openvino_model.bin", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.long
def test_eight_bits_take_a_quarter_of_the_room(tmp_path: Path) -> None:
    sizes = [(made(tmp_path / kind, "demo", kind) / "openvino_model.bin").stat().st_size for kind in export.KINDS]
    assert sizes[0] * 1.9 < sizes[1]
    assert sizes[1] * 1.9 < sizes[2]


@pytest.mark.parametrize("architecture", ["bloom", "mamba", "gemma2"])
def test_another_architecture_is_refused_and_nothing_is_left(
    tmp_path: Path, tiny: ModuleType, architecture: str
) -> None:
    source = tiny.saved(tmp_path / "in", architecture)
    with pytest.raises(ConfigurationError, match=r"cannot be exported .*choose a decoder with plain attention"):
        made(tmp_path / "out", source)
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_a_graph_that_says_something_else_is_refused(tmp_path: Path, tiny: ModuleType) -> None:
    folder = made(tmp_path / "out", tiny.saved(tmp_path / "in", "llama"))
    with pytest.raises(ConfigurationError, match="its tokens lie"):
        export.compare(tiny.causal("qwen2"), folder, "float32", "another")


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("echo", "int8", "'echo' has no weights to export"),
        ("demmo", "int8", "^'demmo' is no model and no folder; did you mean 'demo'"),
        ("./nowhere", "int8", "^'./nowhere': there is no such folder"),
        ("demo", "int4", "--weights 'int4' is none of int8, float16, float32"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(tmp_path: Path, name: str, kind: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        made(tmp_path / "out", name, kind)


def test_a_tokenizer_that_reads_otherwise_without_transformers_is_refused(
    exported: Path, tmp_path: Path, tiny: ModuleType
) -> None:
    with pytest.raises(ConfigurationError, match=r"its tokenizer cannot be read without transformers .*other tokens"):
        export.compare_words(tiny.byte_level(), exported, "another")


def test_check_knows_what_was_exported(exported: Path) -> None:
    told = [finding for finding in check.model(Settings(model=str(exported))) if finding.subject == "MODEL"]
    assert [finding.verdict for finding in told] == ["good"]


def test_nothing_is_overwritten_and_nothing_exported_twice(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is there already: delete it, or name another folder with --to"):
        made(exported, "demo")
    with pytest.raises(ConfigurationError, match="is exported already: MODEL="):
        made(tmp_path / "out", exported)


def test_a_disk_without_room_is_noticed_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _where: full)
    with pytest.raises(ConfigurationError, match=r"cannot be written: it takes .* MB, and 1 MB are free; make room"):
        made(tmp_path / "out", "demo")
    assert not list(tmp_path.iterdir())


def test_the_command_says_where_it_lies_and_how_to_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    done = CliRunner().invoke(cli.app, ["model", "export", "demo"])
    assert done.exit_code == 0, done.output
    assert f"MODEL={tmp_path / 'models' / 'demo-int8'}" in done.output
    assert (tmp_path / "models" / "demo-int8" / "openvino_model.xml").is_file()
