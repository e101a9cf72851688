"""What of the machine this process may use."""

from __future__ import annotations

from pathlib import Path

from processors.inference.machine import cores, free_memory, has_tiles


def test_a_containers_bound_counts_where_it_is_less(tmp_path: Path) -> None:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert free_memory(told, tmp_path) == 4000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory(told, tmp_path) == 4000 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert free_memory(told, tmp_path) == 2000
    (tmp_path / "memory.current").write_text("5000\n")
    assert free_memory(told, tmp_path) == 0


def test_this_machine_says_what_it_has(tmp_path: Path) -> None:
    assert cores() >= 1
    assert free_memory() > 0
    assert free_memory(tmp_path / "none", tmp_path) > 0


def test_a_processor_says_whether_it_multiplies_by_tiles(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    for flags, has in (("fpu avx512_bf16 amx_bf16 amx_tile", True), ("fpu avx512_bf16", False)):
        told.write_text(f"processor\t: 0\nmodel name\t: amx_bf16\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n")
        assert has_tiles(told) is has
    assert has_tiles(tmp_path / "none") is False
