"""What is wrong with flags is one sentence on stderr, and the code of what is refused."""

import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags
from recipe_files import ROOT

from dinojax import command

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # by ml_collections


def parse(*argv: str, recipe: str = f"{ROOT}/configs/quickstart.py") -> flags.FlagValues:
    values, argv = flags.FlagValues(), ("train.py", f"--config={recipe}", *argv)
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=list(argv))
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.mark_flag_as_required("workdir", values)
    command.parse(argv, values)
    return values


def test_good_flags():
    values = parse("--workdir=x", "--config.train.batch_size=8")
    assert (values.workdir, values.config.train.batch_size) == ("x", 8)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["--config.train.batchsize=64"],
            '--config.train.batchsize=64: there is no such key. Did you mean "batch_size" instead',
        ),
        (
            ["--config.tain.steps=64"],
            "--config.tain.steps=64: there is no such key. Did you mean",
        ),
        (["--config.zzzzzz=64"], "--config.zzzzzz=64: there is no such key."),
        (["--config.train.batch_size=abc"], "flag --config.train.batch_size=abc: invalid literal"),
        (["--workdr=y"], "Unknown command line flag 'workdr'. Did you mean: workdir ?"),
    ],
)
def test_bad_flags(capsys, given, words):
    with pytest.raises(SystemExit) as end:
        parse("--workdir=x", *given)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("configs/none.py", "No such file or directory: 'configs/none.py'"),
        (
            f"{ROOT}/configs/quickstart.py:96px",
            "quickstart:96px is unknown; use one of (",
        ),
    ],
)
def test_bad_recipes(capsys, recipe, words):
    with pytest.raises(SystemExit) as end:
        parse("--workdir=x", recipe=recipe)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_bug_in_a_recipe_keeps_its_traceback(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("def get_config():\n    return None.train\n")
    with pytest.raises(AttributeError, match="train"):
        parse("--workdir=x", recipe=str(recipe))


def test_a_process():
    call = [sys.executable, "-m", "dinojax.inspect", "one", "two"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "dinojax.inspect: one FILE_OR_DIR is inspected, not ['one', 'two']\n"
