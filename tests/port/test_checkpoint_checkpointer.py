from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_runs import Run, alike, copied, flip_byte, metadata, small_state

from port.checkpoint import Checkpointer, Metadata, as_container
from port.checkpoint.storage import describe_files, write_manifest


def names(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def save_small(folder: Path, *iterations: int, keep: int = 9) -> Checkpointer:
    """Save checkpoints whose tensors hold their iteration."""
    checkpointer = Checkpointer(folder, keep)
    for iteration in iterations:
        checkpointer.save(small_state(iteration), metadata(iteration))
    return checkpointer


def loaded(folder: Path) -> float:
    """Load the newest checkpoint; return its tensors' one value."""
    into = small_state(-1)
    found = Checkpointer(folder).load(into)
    assert found is not None
    assert alike(into, small_state(found.iteration))
    return found.iteration


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    """All of a run's tensors come back bit for bit, into a run of other weights."""
    run = Run().advance(0, 2)
    run.save(tmp_path, 2)
    other = Run(seed=3)
    assert not alike(other.state(), run.state())
    found = other.load(tmp_path)
    assert alike(other.state(), run.state())
    assert found is not None
    assert found.iteration == 2


@pytest.mark.parametrize("overrides", [(), ("prototype.loss_weight=1.0", "ibot.separate_head=true")])
def test_resumed_run_goes_on_bitwise(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """Two steps, a checkpoint, a new process's run, two more steps: the same as four steps without a break."""
    undisturbed = Run(overrides).advance(0, 4)
    Run(overrides).advance(0, 2).save(tmp_path, 2)
    resumed = Run(overrides, seed=3)
    resumed.load(tmp_path)
    assert alike(resumed.advance(2, 4).state(), undisturbed.state())


def test_saving_does_not_disturb_the_run(tmp_path: Path) -> None:
    """A run that saves after each step is bitwise the run that never saves."""
    saving, silent = Run(), Run().advance(0, 3)
    for iteration in range(3):
        saving.advance(iteration, iteration + 1).save(tmp_path, iteration + 1)
    assert alike(saving.state(), silent.state())


def test_nothing_to_load(tmp_path: Path) -> None:
    """No folder, or an empty one, is no checkpoint; the tensors stay as they are."""
    into = small_state(3)
    assert Checkpointer(tmp_path / "absent").load(into) is None
    assert Checkpointer(tmp_path).latest() is None
    assert alike(into, small_state(3))


def test_metadata_is_readable_json(tmp_path: Path) -> None:
    """Beside the tensors lies what a person may want to know."""
    run = Run()
    described = Metadata.of_run(5, run.model.cfg, bad_files=2, wall_seconds=1.5)
    path = Checkpointer(tmp_path).save(run.state(), described)
    fields = json.loads((path / "metadata.json").read_text())
    assert path.name == "step_000000005"
    assert (fields["iteration"], fields["bad_files"], fields["wall_seconds"], fields["world_size"]) == (5, 2, 1.5, 1)
    assert fields["config"]["student"]["arch"] == "vit_test"
    assert fields["torch_version"] == torch.__version__
    assert run.load(tmp_path) == described


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """After each save the newest `keep` are there, and nothing else."""
    save_small(tmp_path, 1, 2, 3, 4, 5, keep=2)
    assert names(tmp_path) == ["step_000000004", "step_000000005"]


def test_new_one_is_kept_though_others_are_newer(tmp_path: Path) -> None:
    """A run that starts anew beside an older run's checkpoints does not lose what it just wrote."""
    save_small(tmp_path, 8, 9)
    save_small(tmp_path, 1, keep=1)
    assert names(tmp_path) == ["step_000000001"]


def test_keep_must_be_positive(tmp_path: Path) -> None:
    """Keeping none is refused."""
    with pytest.raises(ValueError, match=r"checkpoint\.keep is 0, expected at least 1"):
        Checkpointer(tmp_path, keep=0)


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "metadata.json", "manifest.json"])
def test_flipped_byte_falls_back(tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever a byte of the newest changed, the one before is loaded, and a warning names what is damaged."""
    save_small(tmp_path, 1, 2)
    size = (tmp_path / "step_000000002" / file).stat().st_size
    for position in (0, size // 2, size - 1):
        flip_byte(tmp_path / "step_000000002" / file, position)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "port"):
            assert loaded(tmp_path) == 1
        assert f"{tmp_path / 'step_000000002'} is damaged ({file}" in caplog.text
        assert "falling back to the one before" in caplog.text
        flip_byte(tmp_path / "step_000000002" / file, position)
    assert loaded(tmp_path) == 2


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "metadata.json", "manifest.json"])
def test_missing_and_truncated_files_fall_back(tmp_path: Path, file: str) -> None:
    """A file that is cut short or gone makes the checkpoint damaged; two damaged ones are skipped."""
    save_small(tmp_path, 1, 2, 3)
    (tmp_path / "step_000000003" / file).unlink()
    truncated = tmp_path / "step_000000002" / file
    truncated.write_bytes(truncated.read_bytes()[:-1])
    assert loaded(tmp_path) == 1


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    """Where none is sound the run does not silently start anew."""
    save_small(tmp_path, 1, 2)
    for path in tmp_path.iterdir():
        flip_byte(path / ".metadata", 3)
    into = small_state(-1)
    with pytest.raises(ValueError, match=r"all 2 checkpoints in .* are damaged"):
        Checkpointer(tmp_path).load(into)
    assert alike(into, small_state(-1))


def test_damaged_ones_are_never_deleted(tmp_path: Path) -> None:
    """Damaged folders outlive later saves, also of the same iteration, and do not count as kept."""
    checkpointer = save_small(tmp_path, 1, 2, 3, 4, keep=9)
    for iteration in (3, 4):
        flip_byte(tmp_path / f"step_00000000{iteration}" / ".metadata", 3)
    checkpointer.keep = 2
    assert checkpointer.load(small_state(-1)) is not None
    checkpointer.save(small_state(3), metadata(3))
    assert names(tmp_path) == ["step_000000002", "step_000000003", "step_000000003.damaged", "step_000000004"]
    checkpointer.save(small_state(5), metadata(5))
    assert names(tmp_path) == ["step_000000003", "step_000000003.damaged", "step_000000004", "step_000000005"]


def test_same_iteration_is_replaced(tmp_path: Path) -> None:
    """Saving an iteration again leaves the new tensors, in one folder."""
    checkpointer = save_small(tmp_path, 1)
    checkpointer.save(small_state(0.5), metadata(1))
    into = small_state(-1)
    checkpointer.load(into)
    assert alike(into, small_state(0.5))
    assert names(tmp_path) == ["step_000000001"]


def test_other_architecture_is_refused_before_anything_is_overwritten(tmp_path: Path) -> None:
    """Names and both shapes of the first few tensors are told, with the configuration keys that cause them."""
    Run().save(tmp_path, 1)
    other = Run(("dino.head_n_prototypes=20", "student.num_register_tokens=2"))
    before = copied(other.state())
    with pytest.raises(ValueError, match="does not fit this model") as raised:
        Checkpointer(tmp_path).load(other.state(), as_container(other.model.cfg))
    message = str(raised.value)
    assert "model.dino_loss.center: (1, 12) torch.float32 saved, (1, 20) torch.float32 here" in message
    assert "model.ibot_patch_loss.center" in message
    assert "dino.head_n_prototypes: 12 -> 20" in message
    assert "student.num_register_tokens: 0 -> 2" in message
    assert alike(copied(other.state()), before)


def test_many_differences_are_counted(tmp_path: Path) -> None:
    """Five tensors are named, the others counted."""
    Checkpointer(tmp_path).save({f"t{i}": torch.zeros(2) for i in range(9)}, metadata(1))
    with pytest.raises(ValueError, match=r"t4: \(2,\) torch.float32 saved, \(3,\) torch.float32 here; and 4 more"):
        Checkpointer(tmp_path).load({f"t{i}": torch.zeros(3) for i in range(9)})


def test_other_type_is_refused(tmp_path: Path) -> None:
    """Reading float32 into bfloat16 would round silently."""
    save_small(tmp_path, 1)
    into = {name: tensor.double() for name, tensor in small_state(-1).items()}
    with pytest.raises(ValueError, match=r"model.vector: \(7,\) torch.bfloat16 saved, \(7,\) torch.float64 here"):
        Checkpointer(tmp_path).load(into)


def test_precision_may_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The scaler's tensors may be absent on either side; a scaler that finds none starts afresh, and it is said."""
    scaler = {"scaler.scale": torch.tensor(8.0)}
    Checkpointer(tmp_path).save(small_state(1), metadata(1))
    with caplog.at_level(logging.WARNING, "port"):
        Checkpointer(tmp_path).load({**small_state(-1), **scaler})
    assert "saved without a gradient scaler" in caplog.text
    assert scaler["scaler.scale"].item() == 8.0
    Checkpointer(tmp_path).save({**small_state(2), **scaler}, metadata(2))
    assert loaded(tmp_path) == 2


def test_newer_schema_is_no_damage(tmp_path: Path) -> None:
    """A checkpoint of a later version of this package is refused by name; falling back would lose work."""
    save_small(tmp_path, 1, 2)
    path = tmp_path / "step_000000002"
    fields = json.loads((path / "metadata.json").read_text())
    (path / "metadata.json").write_text(json.dumps({**fields, "schema": 2, "port_version": "9.0"}))
    write_manifest(path, describe_files(file for file in path.iterdir() if file.name != "manifest.json"))
    with pytest.raises(ValueError, match=r"schema 2 \(dinov2-parity 9\.0\), expected 1"):
        loaded(tmp_path)


def test_index_of_another_torch_is_named(tmp_path: Path) -> None:
    """An index that is whole but cannot be read names the torch that wrote it."""
    path = save_small(tmp_path, 1).latest()
    assert path is not None
    (path / ".metadata").write_bytes(pickle.dumps(7).replace(b"K\x07", b"cgone\nAbsent\n"))
    write_manifest(path, describe_files(file for file in path.iterdir() if file.name != "manifest.json"))
    with pytest.raises(ValueError, match=r"index of .* cannot be read .* written by torch"):
        loaded(tmp_path)


def test_full_disk_leaves_earlier_checkpoints(tmp_path: Path) -> None:
    """Files may not grow beyond 100 kB for a while: a clear error, no leftovers, and the earlier one still loads."""
    checkpointer = save_small(tmp_path, 1, 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot save a checkpoint to .*step_000000003: File too large") as raised:
            checkpointer.save({**small_state(3), "big": torch.zeros(100_000)}, metadata(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "It needs about 400,178 bytes" in str(raised.value)
    assert "bytes are free. Earlier checkpoints are untouched" in str(raised.value)
    assert names(tmp_path) == ["step_000000001", "step_000000002"]
    assert loaded(tmp_path) == 2


def problem_of_saving(folder: Path) -> str | None:
    """Save checkpoint 2 and return what the error says; None without an error."""
    try:
        save_small(folder, 2)
    except OSError as error:
        return str(error)
    return None


def test_every_failing_sync_leaves_earlier_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write the disk refuses, the error is an OSError and the earlier checkpoint loads."""
    save_small(tmp_path, 1)
    fsync, failures = os.fsync, 0

    for refused in range(20):
        calls = 0

        def refuse(descriptor: int, refused: int = refused) -> None:
            nonlocal calls
            calls += 1
            if calls == refused + 1:
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", refuse)
        problem = problem_of_saving(tmp_path)
        if problem is None:
            break
        failures += 1
        assert "No space left on device. It needs" in problem
        assert loaded(tmp_path) in (1, 2)
        shutil.rmtree(tmp_path / "step_000000002", ignore_errors=True)
        assert names(tmp_path) == ["step_000000001"]
    # The tensors, the index, metadata.json, the manifest, the folder, the folder above.
    assert failures == 6


def test_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C while saving ends the save at once, as itself, and no half is left."""
    checkpointer = save_small(tmp_path, 1)

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save(small_state(2), metadata(2))
    assert names(tmp_path) == ["step_000000001"]


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    """The next save removes what a killed one left."""
    left = tmp_path / ".tmp-step_000000001-99999"
    left.mkdir()
    (left / "__0_0.distcp").write_bytes(b"half")
    save_small(tmp_path, 1)
    assert names(tmp_path) == ["step_000000001"]


def test_check_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that can be written passes and is left empty; a full disk and a file in its place do not."""
    checkpointer = Checkpointer(tmp_path / "run" / "checkpoints")
    checkpointer.check_writable(small_state(0))
    assert names(checkpointer.folder) == []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(OSError, match=r"No space left on device. It needs about 178 bytes, 100 bytes are free"):
        checkpointer.check_writable(small_state(0))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot save a checkpoint to .*: Not a directory"):
        Checkpointer(tmp_path / "file" / "checkpoints").check_writable(small_state(0))


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which nothing can be made is an error with the system's reason."""

    def refuse(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match=r"Read-only file system\. It needs about"):
        save_small(tmp_path, 1)
