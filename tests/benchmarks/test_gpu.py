"""What was measured is not measured again; what failed or was cut off is."""

import json
import re

import gpu
import pytest

from dinojax.kernels import gpu_choice

ROW = '{"ms": 1.5}'


@pytest.fixture
def case(tmp_path):
    """``case(name, code)``: appends its name to `tmp_path`'s list, prints a row and runs `code`."""

    def make(name: str, code: str = "") -> gpu.Case:
        told = f"open({str(tmp_path / 'told')!r}, 'a').write('{name} ')"
        row = f"print('a table'); print({ROW!r}, flush=True)"
        return gpu.Case(name, ("-c", f"{told}; {row}; {code}"))

    return make


def told(folder) -> list[str]:
    return (folder / "told").read_text().split()


def test_a_case_that_is_done_is_kept(case, tmp_path):
    for _ in range(2):
        gpu.run_item(iter([[case("a")], [case("b")]]), tmp_path, 100)
    assert told(tmp_path) == ["a", "b"]
    assert json.loads((tmp_path / "a.json").read_text())["rows"] == [json.loads(ROW)]


def test_a_failure_keeps_its_rows_and_is_tried_again(case, tmp_path):
    gpu.run_item(iter([[case("a", "exit(3)")], [case("b")]]), tmp_path, 100)
    failed = json.loads((tmp_path / "a.failed.json").read_text())
    assert (failed["returncode"], failed["rows"]) == (3, [json.loads(ROW)])
    gpu.run_item(iter([[case("a")], [case("b")]]), tmp_path, 100)
    assert told(tmp_path) == ["a", "b", "a"]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["a.json", "b.json"]


def test_a_failure_ends_its_chain_alone(case, tmp_path):
    chains = [[case("a"), case("b", "exit(1)"), case("c")], [case("d")]]
    gpu.run_item(iter(chains), tmp_path, 100)
    assert told(tmp_path) == ["a", "b", "d"]


def test_a_case_without_end_is_cut_off(case, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST_S", 0)
    gpu.run_item(iter([[case("a", "import time; time.sleep(60)")]]), tmp_path, 0.5)
    failed = json.loads((tmp_path / "a.failed.json").read_text())
    assert (failed["returncode"], failed["rows"]) == (None, [json.loads(ROW)])


def test_nothing_is_begun_with_too_little_time(case, tmp_path, capsys):
    gpu.run_item(iter([[case("a")]]), tmp_path, gpu.LEAST_S - 1)
    assert "no time left" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_correctness_is_of_tests_that_there_are():
    for (case,) in gpu.correctness():
        path, *suite = case.command[2].split("::")
        source = (gpu.ROOT / path).read_text()
        assert all(f"class {name}(" in source for name in suite)


def test_steps_come_after_the_choices_of_the_table_that_they_read():
    items = list(gpu.ITEMS)
    assert items.index("attention") < min(map(items.index, ("vitl", "largest", "rest")))
    wrote = [f"--write_choices={gpu.CHOICES}" in case.command for (case,) in gpu.attention()]
    assert wrote == ["--rope" in case.command for (case,) in gpu.attention()]
    assert any(wrote) and (gpu.ROOT / gpu.CHOICES).samefile(gpu_choice.TABLE)


def test_every_case_has_a_name_of_its_own_and_known_flags():
    cases = [case for item in gpu.ITEMS.values() for chain in item() for case in chain]
    assert len({case.name for case in cases}) == len(cases)
    scripts = [case for case in cases if case.command[0] != "-m"]
    assert len(scripts) > len(cases) / 2
    for case in scripts:
        path, *flags = case.command
        source = (gpu.ROOT / path).read_text() + (gpu.ROOT / "benchmarks/measure.py").read_text()
        for flag in flags:
            assert re.search(rf'"{flag.split("=")[0]}"', source), f"{case.name}: {flag}"
