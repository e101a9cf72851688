"""Tiny models, and the one that ships as OpenVINO runs it: torch is imported only by tests that ask for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from streams.settings import Settings


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """See tiny_models.py."""
    spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("tiny_models.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that ships, as `cauce model export` makes it; a test that asks for it is skipped without OpenVINO."""
    pytest.importorskip("openvino_genai", reason="OpenVINO is not installed")
    from processors.inference.export import export

    folder = tmp_path_factory.mktemp("exported") / "demo"
    return export(Settings(), "demo", folder, "float32", lambda _line: None)
