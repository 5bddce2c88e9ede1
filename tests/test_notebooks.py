"""The notebooks run from top to bottom, on drawn faces, and are kept without what they show."""

import asyncio
import os
import pathlib

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def read(name):
    return nbformat.read(NOTEBOOKS[name], as_version=nbformat.NO_CONVERT)


@pytest.fixture(scope="module")
def executed(finished, tmp_path_factory):
    """By name: the notebook with its outputs, and what went wrong or None.

    Kernels are processes of their own, which take seconds to start; so they run all at once.
    """
    elsewhere = tmp_path_factory.mktemp("jupyter")
    before = sorted(finished.rglob("*"))
    notebooks = {name: read(name) for name in NOTEBOOKS}
    clients = [
        nbclient.NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": elsewhere}},
        )
        for notebook in notebooks.values()
    ]

    async def execute():
        return await asyncio.gather(*(c.async_execute() for c in clients), return_exceptions=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FERMM_FER2013", raising=False)
        patch.setenv("FERMM_RUN", str(finished))
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(elsewhere / name))
        ends = asyncio.run(execute())
    errors = [end if isinstance(end, BaseException) else None for end in ends]
    assert sorted(finished.rglob("*")) == before  # nothing was written into the run
    return dict(zip(notebooks, zip(notebooks.values(), errors, strict=True), strict=True))


def test_there_are_notebooks():
    assert list(NOTEBOOKS) == ["checkpoints", "data", "results"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.keys() <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(executed, name):
    notebook, error = executed[name]
    if error is not None:
        raise error
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
