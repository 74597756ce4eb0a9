"""`distilsearch export`: a picked student in each form, checked, whole or not there; and what cannot be, in one message."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from exporting import finished_study, tiny_study
from test_tasks import amount, made, topics  # noqa: F401  # a fixture among them

from search.study.inputs import read_inputs
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.evaluate import predict
from spaces.study import StudySpec


@pytest.fixture(scope="module")
def once(transfer: Any, teacher: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    return finished_study(partial(tiny_study, folder, data_folder, teacher), transfer, teacher, folder).output


@pytest.fixture
def study(once: Path, tmp_path: Path) -> Path:
    """The output folder of a finished study, to be changed."""
    return shutil.copytree(once, tmp_path / "run")


def files_below(folder: Path) -> list[str]:
    """But for what SQLite keeps beside a file that was read."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return sorted(name for name in found if not name.endswith(("-shm", "-wal")))


def test_every_form_is_written_and_held_against_pytorch(distilsearch: Run, study: Path, transfer: Any) -> None:
    import onnxruntime
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    arguments = ("export", study, "--pick", "trial=1", "--format", "hf,hf-fp16,onnx,onnx-int8")
    status, out, err = distilsearch(*arguments, "--json")
    assert status == 0
    assert err.splitlines() == [
        "reading the validation and test texts again",
        "writing hf",
        *(f"writing {name} and checking it" for name in ("hf-fp16", "onnx", "onnx-int8")),
    ]
    told = json.loads(out)
    folder = study / "exports" / "trial-1"
    assert told["folder"] == str(folder)
    assert told["picked"]["trial"] == 1
    assert "of the teacher's" in told["picked"]["on_validation"]
    assert sorted(entry.name for entry in folder.iterdir()) == ["export.json", "hf", "hf-fp16", "onnx", "onnx-int8"]
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "hf").eval()
    source = study / "best" / "trial-1"
    assert (folder / "hf" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    for name, form in told["formats"].items():
        file = folder / name / form["file"]
        assert form["bytes"] == file.stat().st_size
        assert (folder / name / "README.md").is_file()
        AutoTokenizer.from_pretrained(folder / name)
        check = form["check"]
        if name == "hf":
            assert check is None
            continue
        # Once more, by another road: the files as a user opens them, on the transfer set's own arrays.
        for split in ("validation", "test"):
            tokenizer = AutoTokenizer.from_pretrained(folder / name)
            tokens = Tokens.encode(tokenizer, *transfer.splits[split].texts, max_length=32)
            expected = predict(plain, tokens, 0, WorkerContext(), exact=True)
            if name == "hf-fp16":
                model = AutoModelForSequenceClassification.from_pretrained(folder / name, dtype="float32").eval()
                given = predict(model, tokens, 0, WorkerContext(), exact=True)
            else:
                session = onnxruntime.InferenceSession(file)
                rows = [slice(*tokens.offsets[row : row + 2]) for row in range(len(tokens))]
                each = [tokens.ids[row][None].astype(np.int64) for row in rows]
                feeds = [{"input_ids": e, "attention_mask": e * 0 + 1, "token_type_ids": e * 0} for e in each]
                wanted = {entry.name for entry in session.get_inputs()}
                given = np.concatenate([session.run(None, {key: feed[key] for key in wanted})[0] for feed in feeds])
            worst = np.abs(given - expected).max()
            if name == "onnx":  # nothing but rounding
                assert worst < 1e-4
                assert check["largest_difference"][split] < 1e-4
                assert check["share_equal"][split] == 1
                scored = transfer.measure(split, expected)["accuracy"]
                assert check["metrics"][f"{split}/accuracy"] == scored
            elif name == "hf-fp16":
                assert worst == pytest.approx(check["largest_difference"][split], rel=0.1)
                assert 0 < worst < 0.1
            else:  # activations are quantised a batch at a time, so other batches round otherwise
                assert 1e-3 < check["largest_difference"][split] < 3 * np.abs(expected).max()
                assert 0.5 < check["share_equal"][split] <= 1
    forms = told["formats"]
    assert forms["onnx-int8"]["bytes"] < forms["onnx"]["bytes"]
    assert forms["hf-fp16"]["bytes"] < 0.6 * forms["hf"]["bytes"]
    status, out, _ = distilsearch(*arguments)
    assert status == 0
    assert out.startswith("trial 1 (trial=1): bert, layers ")
    assert "\nOn test: accuracy " in out
    assert f"onnx-int8: {folder / 'onnx-int8'}, 0.1 MB\n  validation: accuracy " in out


@pytest.mark.parametrize(("task", "relabel"), [("multi-label-classification", topics), ("text-regression", amount)])
def test_every_task_is_exported_and_checked(
    task: str, relabel: Any, made: Callable[..., StudySpec], base_teacher: Path, distilsearch: Run, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    transfer = read_inputs(made(task, relabel), lambda text: None).transfer

    def study_of(**changes: Any) -> StudySpec:
        return made(task, relabel, **changes)

    spec = finished_study(study_of, transfer, base_teacher, tmp_path)
    status, out, err = distilsearch("export", spec.output, "--pick", "trial=0", "--format", "onnx,onnx-int8", "--json")
    assert (status, err.count("\n")) == (0, 3)
    for name, check in ((name, form["check"]) for name, form in json.loads(out)["formats"].items()):
        assert set(check["metrics"]) == {f"{split}/{m}" for split in ("validation", "test") for m in spec.about.metrics}
        if name == "onnx":
            assert max(check["largest_difference"].values()) < 1e-4
            assert min(check["share_equal"].values()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("registries")
def test_a_head_of_ones_own_in_every_form(
    documented: Callable[[str], Path], distilsearch: Run, transfer: Any, teacher: Path, data_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its code goes with the folders that need it, and not with ONNX files, which hold it."""
    from transformers import AutoModelForSequenceClassification

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    own = {"heads": {"mean": f"{documented('mean_head.py')}:MeanHead"}, "searched": {"head": "mean"}}
    spec = finished_study(partial(tiny_study, tmp_path, data_folder, teacher, **own), transfer, teacher, tmp_path)
    status, out, _ = distilsearch("export", spec.output, "--format", "hf,hf-fp16,onnx,onnx-int8", "--json")
    assert status == 0
    forms, folder = json.loads(out)["formats"], Path(json.loads(out)["folder"])
    assert max(forms["onnx"]["check"]["largest_difference"].values()) < 1e-4
    assert max(forms["hf-fp16"]["check"]["largest_difference"].values()) < 0.1
    for name in forms:
        code = sorted(path.name for path in (folder / name).glob("*.py"))
        assert code == (["modeling_student.py", "own_head.py", "student_with_head.py"] if name.startswith("hf") else [])
        if name.startswith("hf"):
            AutoModelForSequenceClassification.from_pretrained(folder / name, trust_remote_code=True)
            assert "read it before you run it" in (folder / name / "README.md").read_text()


def test_forms_of_one_student_stand_side_by_side(distilsearch: Run, study: Path, tmp_path: Path) -> None:
    target = tmp_path / "for you"
    export = ("export", study, "--to", target)
    assert distilsearch(*export, "--pick", "trial=0")[0] == 0
    assert distilsearch(*export, "--pick", "trial=0", "--format", "onnx", "--unchecked")[0] == 0
    assert sorted(entry.name for entry in target.iterdir()) == ["export.json", "hf", "onnx"]
    assert set(json.loads((target / "export.json").read_text())["formats"]) == {"hf", "onnx"}
    assert distilsearch(*export, "--pick", "trial=1")[0] == 0  # another student: nothing of the first stays
    assert sorted(entry.name for entry in target.iterdir()) == ["export.json", "hf"]
    assert not (study / "exports").exists()


def test_what_cannot_be_is_2_and_one_message(distilsearch: Run, study: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    before = files_below(tmp_path)
    for options, words in (
        (["--pick", "smalest"], 'is no pick; did you mean "smallest"?'),
        (
            ["--pick", "smallest", "--keep", "99%"],
            "nothing keeps 99 % of the teacher's accuracy on validation: the nearest",
        ),
        (["--pick", "trial=2"], "trial 2 is not on the front (others beat it)"),
        (["--format", "onx"], "'onx' is no format; did you mean \"onnx\"?; there are hf, hf-fp16, onnx, onnx-int8"),
        (["--format", ","], "names nothing; write some of hf,"),
        (["--to", tmp_path / "mine"], "is not empty and holds no export; name another folder"),
        (["--to", tmp_path / "file"], "is a file; name a folder"),
        (["--to", tmp_path / "file" / "below"], "cannot be written: Not a directory; nothing was left there"),
        (["--to", "/proc/export/here"], "/proc/export/here cannot be written: "),
    ):
        status, out, err = distilsearch("export", study, *options)
        assert (status, out) == (2, "")
        assert words in " ".join(err.split("\n"))
        assert files_below(tmp_path) == before
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_texts_that_are_gone_or_others_are_told(
    distilsearch: Run, transfer: Any, teacher: Path, data_folder: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(data_folder, tmp_path / "data")
    study = finished_study(partial(tiny_study, tmp_path, data, teacher), transfer, teacher, tmp_path).output
    export = ("export", study, "--format", "onnx")
    lines = (data / "test.tsv").read_text().splitlines()
    (data / "test.tsv").write_text("\n".join(lines[:-1]) + "\n")
    status, _, err = distilsearch(*export)
    assert status == 2
    assert "data: these are not the texts that the study was run on" in err
    (data / "test.tsv").unlink()
    status, _, err = distilsearch(*export)
    assert status == 2
    assert "these cannot be read any more (" in err
    assert "test.tsv" in err
    assert "bring them back, or write --unchecked" in err
    assert not (study / "exports").exists()
    status, out, _ = distilsearch(*export, "--unchecked")
    assert status == 0
    assert out.rstrip().endswith(" MB (not checked: --unchecked)")
    assert distilsearch("export", study)[0] == 0  # a plain copy needs no texts


def test_weights_that_are_not_there_are_told(distilsearch: Run, study: Path) -> None:
    shutil.rmtree(study / "best" / "trial-1")
    status, _, err = distilsearch("export", study, "--pick", "trial=1")
    assert status == 2
    assert "the weights of trial 1 are not in best/trial-1 (yet); run the study to its end" in err


def test_a_full_disk_leaves_nothing(distilsearch: Run, study: Path, tmp_path: Path) -> None:
    """No file may grow beyond some bytes, which is what a full disk does to one."""
    before, (soft, hard) = files_below(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in ("hf", "hf-fp16", "onnx", "onnx-int8"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
        try:
            status, out, err = distilsearch("export", study, "--pick", "trial=1", "--format", name, "--unchecked")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (status, out) == (2, "")
        told = err.strip().splitlines()[-1]
        assert "cannot be written: " in told
        assert "File too large" in told
        assert "nothing was left there. Name another folder with --to" in told
        assert files_below(tmp_path) == before
