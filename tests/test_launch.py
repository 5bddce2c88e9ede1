"""launch.py as a user calls it: mostly in a process of its own."""

import ast
import errno
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from absl import flags, logging
from absl.testing import flagsaver

import launch as program
from configs import ferplus, paper, synthetic
from fermm import notices, rundir
from fermm.errors import InputError
from fermm.experiment import config as run_config
from fermm.experiment import directory as directory_lib
from fermm.rundir import RunDirectory

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Without --workdir a run is put below the current directory: not into the checkout's."""
    monkeypatch.chdir(tmp_path)


def launch(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", ROOT / "launch.py", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def launch_here(capfd):
    """As `launch`, but in this process: for errors that say no more of the process that has them.

    Those that come after JAX is loaded take seconds in a process of their own.
    """

    def call(*arguments):
        before, verbosity = set(flags.FLAGS), logging.get_verbosity()
        capfd.readouterr()
        try:
            with flagsaver.flagsaver():
                argv = program._parse_flags(["launch.py", *map(str, arguments)])
                with pytest.raises(SystemExit) as end:
                    program.main(argv)
        finally:
            logging.set_verbosity(verbosity)
            for name in set(flags.FLAGS) - before:  # those of this config
                delattr(flags.FLAGS, name)
        said = capfd.readouterr()
        return subprocess.CompletedProcess(argv, end.value.code, said.out, said.err)

    return call


SMALL = (
    "--config.data.arguments.count=330",
    "--config.networks=('landmarks',)",
    "--config.landmarks.epochs=1",
)


def test_a_run_and_the_same_again(tmp_path):
    # Compiled programs are kept where the environment says, as it does for tests, or in the cache.
    kept = {"JAX_COMPILATION_CACHE_DIR": ""}
    arguments = (*SMALL, f"--config.data.cache_dir={tmp_path / 'cache'}")
    run = ("--workdir", tmp_path / "run")
    first = launch(*arguments, *run, "--config.report=False", cwd=tmp_path, **kept)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    assert len(list((tmp_path / "cache" / "compiled").glob("*/*train_steps*"))) == 1
    assert "landmarks, seed 0  epoch  1/1  loss " in first.stdout
    table = first.stdout[first.stdout.index("Accuracy in percent") :].partition("\n\n")[0]
    assert "\nlandmarks " in table
    assert "paper" not in table  # whose numbers are of other faces
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["arguments"]["count"] == 330
    assert not (tmp_path / "run" / "report.html").exists()
    again = launch(*arguments, *run, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    assert "  epoch " not in again.stdout
    assert table in again.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.seeds=(0,)", "--config.seeds=(1,)"], {"seeds": (1,)}),
        (["--config.seeds=(0,)", "--config.seeds", "(1,)", "-config.seeds=2,"], {"seeds": (2,)}),
        (["--config.networks=image", "--config.networks=landmarks"], {"networks": ("landmarks",)}),
        (["--config.report=True", "--noconfig.report"], {"report": False}),
        (["--config.report", "--config.report=False", "--config.report"], {"report": True}),
        (["--config.parallel=batch", "--config.parallel", "seeds"], {"parallel": "seeds"}),
        (["--config.landmarks.epochs=3", "--config.landmarks.epochs=4"], {"landmarks.epochs": 4}),
        (
            ["--config.image.arguments.filters=(1, 2, 3)"] * 2,
            {"image.arguments.filters": (1, 2, 3)},
        ),
        (
            ["--config.landmarks.learning_rate", "-1", "--config.landmarks.learning_rate=2"],
            {"landmarks.learning_rate": 2.0},
        ),
        (
            ["--config={root}/configs/paper.py", "--config", "{root}/configs/synthetic.py"],
            {"data.source": "synthetic"},
        ),
        (
            [
                "--config={root}/configs/synthetic.py",
                "--config={root}/configs/paper.py",
                "--config.seeds=(3,)",
            ],
            {"data.source": "fer2013", "seeds": (3,)},
        ),
    ],
)
def test_of_a_repeated_flag_the_last_wins(arguments, expected):
    """As launch.py parses them."""
    ask = "import sys, launch; from absl import flags; sys.argv = ['launch.py', *sys.argv[1:]]; "
    ask += "launch._parse_flags(sys.argv); print(repr(flags.FLAGS['config'].value.to_dict()))"
    result = subprocess.run(
        [sys.executable, "-c", ask, *(argument.format(root=ROOT) for argument in arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = ast.literal_eval(result.stdout)
    for path, value in expected.items():
        section = found
        for name in path.split("."):
            section = section[name]
        assert section == value


FER2013 = ("--config", ROOT / "configs/paper.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.image.epoch=3"],
            "--config.image.epoch=3: the config has no field 'epoch'; did you mean 'epochs'?",
        ),
        (
            ["--config.imag.epochs=3"],
            "--config.imag.epochs=3: the config has no field 'imag'; did you mean 'image'?",
        ),
        (
            ["--config.xyz=3"],
            "--config.xyz=3: the config has no field 'xyz'; --help shows the fields",
        ),
        (
            ["--config.image.epochs=many"],
            "flag --config.image.epochs=many: invalid literal for int() with base 10: 'many'",
        ),
        (
            ["--process=1"],
            "--coordinator and --process need --processes=COUNT as well",
        ),
        (
            ["--processes=2", "--process=0", "--coordinator=host0"],
            "--coordinator=host0: needs HOST:PORT, as in host0:1234",
        ),
        (
            ["--processes=2", "--process=0", "--coordinator=host0:99999"],
            "--coordinator=host0:99999: needs HOST:PORT, as in host0:1234",
        ),
        (
            ["--processes=2", "--process=2", "--coordinator=host0:1234"],
            "--process=2: of 2 processes, the first is 0",
        ),
        (["--workdri=x"], "Unknown command line flag 'workdri'. Did you mean: workdir ?"),
        (
            ["runs/x"],
            "unknown argument 'runs/x'; fields are set as --config.FIELD=VALUE, see --help",
        ),
        (["--config=none.py"], "--config: 'none.py' is not a file; see configs/ for examples"),
        (
            ["--config=README.md"],
            "--config: 'README.md' is not a Python file (.py); see configs/ for examples",
        ),
        (
            ["--config=own.py"],
            "--config: own.py has no function get_config(); see configs/ for examples",
        ),
        (
            [*FER2013, "--config.networks=('landmarks',)"],
            "config.data.path is empty: give FER2013's fer2013.csv, icml_face_data.csv, or the "
            "folder or zip of its images, e.g. --config.data.path=fer2013.csv",
        ),
        (
            ["--config.data.source=synthetik"],
            "config.data.source: 'synthetik' is unknown; there are fer2013, synthetic. "
            "Did you mean 'synthetic'?",
        ),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path):
    for name in ("README.md", "own.py"):
        (tmp_path / name).write_text("a = 3")
    result = launch(*arguments, "--workdir", tmp_path / "run", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"launch.py: {message}\n"
    said = [line for line in result.stdout.splitlines() if not line.endswith(" ...")]
    assert said == []
    assert not (tmp_path / "run").exists()


BAD_ROWS = {
    "short": ("0," + " ".join(["7"] * 2303) + ",Training", "2303"),
    "256": ("0," + " ".join(["256"] * 2304) + ",Training", "256"),
    "emotion": ("7," + " ".join(["7"] * 2304) + ",Training", "emotion"),
    "usage": ("0," + " ".join(["7"] * 2304) + ",Trainin", "Trainin"),
}


@pytest.mark.parametrize(("row", "word"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_leaves_nothing_behind(row, word, launch_here, tmp_path):
    source = tmp_path / "fer2013.csv"
    good = "3," + " ".join(["9"] * 2304) + ",Training"
    source.write_text(f"emotion,pixels,Usage\n{good}\n{row}\n")
    result = launch_here(
        *FER2013,
        "--config.networks=('landmarks',)",  # the others take seconds to be checked
        f"--config.data.path={source}",
        f"--config.data.cache_dir={tmp_path / 'cache'}",
        "--config.data.predictor=" + str(predictor(tmp_path)),
        "--workdir",
        tmp_path / "run",
    )
    assert result.returncode == 1
    *progress, message = result.stderr.splitlines()
    assert progress in ([], ["preparing the data: reading"])
    assert message.startswith(f"launch.py: {source}, line 3 (row 2): ")
    assert word in message
    assert not (tmp_path / "run").exists()
    left = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert left == []


# Takes from root, as whom tests may run, that it may write everywhere; then runs the rest.
WITHOUT_RIGHTS = """
import ctypes, os, sys
if os.geteuid() == 0:
    for right in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        assert ctypes.CDLL(None).prctl(24, right, 0, 0, 0) == 0  # PR_CAPBSET_DROP
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("workdir", "cache", "message"),
    [
        (
            "locked",
            "cache",
            "{0}/locked: cannot be written (no right to write to {0}/locked); ch",
        ),
        ("locked/a/b", "cache", "{0}/locked/a/b: cannot be written (no right to write to {0}/l"),
        ("run", "locked", "cannot write to the cache directory {}/locked (Permission denied): set"),
    ],
)
def test_where_nothing_may_be_written(workdir, cache, message, tmp_path):
    source = tmp_path / "fer2013.csv"
    source.write_text("emotion,pixels,Usage\n3," + " ".join(["9"] * 2304) + ",Training\n")
    (tmp_path / "locked").mkdir(mode=0o555)
    before = sorted(tmp_path.rglob("*"))
    arguments = (
        *FER2013,
        "--config.networks=('landmarks',)",  # the others take seconds to be checked
        f"--config.data.path={source}",
        f"--config.data.cache_dir={tmp_path / cache}",
        f"--workdir={tmp_path / workdir}",
    )
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_RIGHTS, sys.executable, ROOT / "launch.py", *arguments],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("launch.py: " + message.format(tmp_path))
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def predictor(tmp_path):
    """Any file: it is looked for, but not opened, before the rows have been read."""
    file = tmp_path / "predictor.dat"
    file.write_bytes(b"")
    return file


def test_the_run_directory_of_another_config(tmp_path):
    (tmp_path / "run" / "landmarks" / "seed_0").mkdir(parents=True)
    config = synthetic.get_config().to_dict()
    config["landmarks"]["epochs"] = 99
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    result = launch("--workdir", tmp_path / "run")
    assert result.returncode == 1
    assert result.stderr == (
        f"launch.py: {tmp_path / 'run'}: a run with another config: config.landmarks.epochs is 99 "
        "there and 16 now; choose another --workdir, or the same config\n"
    )


def test_a_network_whose_name_begins_like_a_field_that_may_differ(tmp_path):
    config = synthetic.get_config().to_dict()
    config["parallel_net"] = config["landmarks"] | {"epochs": 3}
    rundir.write_json(tmp_path / "config.json", config)
    directory_lib.check(run_config.read(config | {"parallel": "batch"}), RunDirectory(tmp_path))
    config["parallel_net"] = config["landmarks"] | {"epochs": 4}
    directory_lib.check(run_config.read(config), RunDirectory(tmp_path))  # not begun: it may
    (tmp_path / "parallel_net" / "seed_0").mkdir(parents=True)
    with pytest.raises(InputError, match=r"config.parallel_net.epochs is 3 there and 4 now"):
        directory_lib.check(run_config.read(config), RunDirectory(tmp_path))


def test_more_data_than_memory(launch_here):
    result = launch_here("--config.data.arguments.count=1000000000000")
    assert result.returncode == 1
    assert re.fullmatch(
        r"launch.py: memory is not enough \(Unable to allocate .* TiB .*\); config.data.streaming "
        r"leaves the data on disk, config.<network>.seeds_at_once=1 with config.parallel=none "
        r"trains one seed at a time, and a smaller config.<network>.batch_size or network needs "
        r"less\n",
        result.stderr,
    )


@pytest.mark.slow
def test_a_larger_network_than_memory(tmp_path):
    result = launch(
        "--config.landmarks.arguments.hidden=(1000000, 1000000)",
        "--config.networks=('landmarks',)",
        "--config.data.arguments.count=330",
        "--workdir",
        tmp_path / "run",
    )
    assert result.returncode == 1
    assert re.fullmatch(
        r"launch.py: memory is not enough \(RESOURCE_EXHAUSTED: [^\n]* bytes[^\n]*\); [^\n]+\n",
        result.stderr,
    )


def test_a_port_in_use():
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = launch("--processes=2", "--process=0", "--coordinator", address)
    assert (result.returncode, result.stderr) == (
        1,
        f"launch.py: --coordinator={address}: {os.strerror(errno.EADDRINUSE)}; choose another "
        "port\n",
    )


@pytest.mark.parametrize("value", ["{}", "7", "None"])
def test_a_config_file_of_another_kind(tmp_path, value):
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {value}\n")
    result = launch("--config", tmp_path / "config.py")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"launch.py: --config: get_config() returns {type(ast.literal_eval(value)).__name__}, "
        "needs an ml_collections.ConfigDict; see configs/ for examples"
    )


@pytest.mark.parametrize("flag", ["--workdir", "--config.data.cache_dir"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a" * 300, "File name too long; choose another path"),
        ("\udcff", "its name is no UTF-8; choose another"),
    ],
    ids=["too long", "no UTF-8"],
)
def test_names_that_cannot_be(flag, name, reason):
    result = launch(f"{flag}={name}")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("launch.py: ")
    assert line.endswith(f": {reason}")


def test_how_many_seeds_are_trained_at_once_may_differ(tmp_path):
    config = synthetic.get_config().to_dict()
    rundir.write_json(tmp_path / "config.json", config)
    config["landmarks"]["seeds_at_once"] = 3
    directory_lib.check(run_config.read(config), RunDirectory(tmp_path))


def test_nobody_reads_what_it_says(tmp_path):
    read, write = os.pipe()
    os.close(read)
    arguments = ["--config.data.arguments.count=330", "--workdir", str(tmp_path / "run")]
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")


def imported(statement):
    """Which of the packages that take long are imported by this, which may end the process."""
    ask = "import sys, launch; sys.argv = ['launch.py']\n"
    ask += f"try: {statement}\nexcept SystemExit: pass\n"
    ask += (
        "heavy = {'jax', 'flax', 'scipy', 'matplotlib', 'tensorflow_datasets', 'orbax', 'dlib'}\n"
    )
    ask += "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", ask],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ast.literal_eval(result.stdout.splitlines()[-1])


def test_help_imports_little():
    """It is there within two seconds."""
    assert imported("launch._parse_flags(['launch.py', '--help'])") == []


def test_a_run_is_refused_before_jax_is_loaded(tmp_path):
    """As is a flag of other processes, and a run directory of another config."""
    config = synthetic.get_config().to_dict() | {"data": {"source": "fer2013", "path": "x.csv"}}
    rundir.write_json(tmp_path / "config.json", config)
    for flag in ("--process=1", f"--workdir={tmp_path}"):
        argv = ["launch.py", flag]
        assert imported(f"launch.main(launch._parse_flags({argv!r}))") == []


def test_what_looks_whether_a_run_is_finished_imports_little():
    """A finished run that is called again is done within seconds."""
    assert imported("from fermm.experiment import config, directory, finished") == []


def test_it_says_what_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(notices, "AFTER", 0.01)
    with notices.doing("drawing"):
        time.sleep(0.1)
    assert capsys.readouterr().out == "drawing ...\n"
    with notices.doing("drawing"):
        pass
    time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_help_explains_every_field():
    result = launch("--config", ROOT / "configs" / "paper.py", "--help")
    assert result.returncode == 0, result.stderr
    assert "uv run launch.py --config configs/paper.py --config.data.path" in result.stdout
    assert "config.image.schedule.kind = 'step'" in result.stdout
    assert "config.data.arguments.count" not in result.stdout


@pytest.mark.parametrize("config", [paper, synthetic, ferplus])
def test_every_field_of_the_shipped_configs_is_explained(config):
    def paths(section, prefix=""):
        for key, value in section.items():
            free = key in ("arguments", "augmentation")
            if isinstance(value, dict) and value and not free:
                yield from paths(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    given = config.get_config().to_dict()
    explained = {path: doc for path, doc, _ in run_config.explain()}
    for path in paths(given):
        for name in given["networks"]:
            path = re.sub(rf"^{name}\.", "<network>.", path)
        path = re.sub(r"\.members\.\w+\.", ".members.<member>.", path)
        assert explained[path], path


@pytest.mark.slow
def test_a_field_that_the_file_leaves_out_can_be_set(tmp_path):
    """Also below a section that is not there, and where its kind decides what it is."""
    (tmp_path / "short.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    network = {'model': 'nn2', 'epochs': 1, 'batch_size': 32, 'learning_rate': 1e-3}\n"
        "    data = {'source': 'synthetic', 'arguments': {'count': 100}}\n"
        "    return ConfigDict({'networks': ('landmarks',), 'data': data, 'landmarks': network})\n"
    )
    workdir = tmp_path / "run"
    arguments = ["--config", tmp_path / "short.py", "--workdir", workdir, "--config.report=False"]
    arguments += ["--config.seeds=(1,)", "--config.data.arguments.seed", "3"]
    arguments += ["--config.landmarks.optimizer.kind=sgd"]
    arguments += ["--config.landmarks.optimizer.momentum=0.5"]
    arguments += ["--config.landmarks.arguments.dropout=0.1", "--config.keep", "last"]
    result = launch(*arguments)
    assert result.returncode == 0, result.stderr
    config = rundir.read_json(workdir / "config.json")
    assert config["seeds"] == [1]
    assert config["keep"] == "last"
    assert config["data"]["arguments"] == {"count": 100, "seed": 3}
    assert config["landmarks"]["optimizer"]["kind"] == "sgd"
    assert config["landmarks"]["optimizer"]["momentum"] == 0.5
    assert config["landmarks"]["arguments"] == {"dropout": 0.1}
    for wrong, message in (
        ("--config.landmarks.optimizer.momentun=1", "the config has no field 'momentun'"),
        ("--config.landmark.epochs=1", "the config has no field 'landmark'"),
    ):
        result = launch(*arguments, wrong)
        assert result.returncode == 1
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
