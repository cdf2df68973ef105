"""A path means the model in it, of a stage, of a run; or the models below are named."""

import json
import pathlib

import pytest

from nemojax.errors import UserError
from nemojax.interop import find


def model(folder: pathlib.Path, name: str = "model.json") -> pathlib.Path:
    folder.mkdir(parents=True)
    (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["model.json", "config.json"])
def test_a_model_is_the_model(name, tmp_path):
    folder = model(tmp_path / "mine", name)
    assert find.find_model(folder) == folder
    assert find.find_model(str(folder)) == folder


def test_a_stage_means_its_model(tmp_path):
    folder = model(tmp_path / "run" / "sft" / "model")
    assert find.find_model(tmp_path / "run" / "sft") == folder
    assert find.find_model(tmp_path / "run") == folder, "the only model below"


def test_a_finished_run_means_the_model_that_its_report_names(tmp_path):
    run = tmp_path / "run"
    folders = [model(run / f"rpo_{k}" / "model") for k in (1, 2, 3)]
    report = {"model": "elsewhere/run/rpo_2/model"}
    (run / "report.json").write_text(json.dumps(report))
    assert find.find_model(run) == folders[1]


@pytest.mark.parametrize("report", [None, "no JSON", "[]", "{}", '{"model": 3}'])
def test_a_run_with_several_models_and_no_report_names_them(report, tmp_path):
    folders = [model(tmp_path / "run" / f"rpo_{k}" / "model") for k in (1, 2)]
    if report is not None:
        (tmp_path / "run" / "report.json").write_text(report)
    with pytest.raises(UserError) as error:
        find.find_model(tmp_path / "run")
    assert str(error.value).startswith(f"{tmp_path / 'run'}: several models")
    assert all(str(folder) in str(error.value) for folder in folders)


def test_what_holds_no_model_says_so(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        find.find_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"neither model\.json nor config\.json"):
        find.find_model(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: no model"):
        find.find_model(tmp_path / "file")
