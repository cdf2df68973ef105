"""The settings are what a work folder is compared by."""

import dataclasses
import json

import pytest

from nemojax.recipe.folder.settings import FolderSettings, quick


def test_configuration_is_json_and_holds_every_setting():
    found = FolderSettings().configuration()
    assert json.loads(json.dumps(found)) == found
    assert dataclasses.asdict(FolderSettings()).items() <= found.items()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(FolderSettings)])
def test_every_setting_changes_the_configuration(field):
    changed = dataclasses.replace(FolderSettings(), **{field: 65})
    assert changed.configuration() != FolderSettings().configuration()


def test_report_s_ranges_are_kept():
    """DPO: beta in [3e-4, 3e-3]; RPO: in [1e-3, 1], eta 1; SFT weights 1e-5 to 1e-3."""
    stages = FolderSettings().stages()
    dpo, rpo = stages["dpo"].preference, stages["rpo_1"].preference
    assert 3e-4 <= dpo.beta <= 3e-3 and 1e-5 <= dpo.sft_weight <= 1e-3
    assert 1e-3 <= rpo.beta <= 1 and rpo.eta == 1


def test_batches_divide_over_two_devices_and_rows_avoid_slow_lengths():
    for settings in (FolderSettings(), quick()):
        assert settings.pretrain(4096).schedule.batch % 2 == 0
        assert settings.length % 128 != 0


def test_quick_is_smaller_and_keeps_the_seed():
    assert quick(7).seed == 7
    assert quick().pretrain_tokens < FolderSettings().pretrain_tokens / 5
    assert quick().model(4096).d_model < FolderSettings().model(4096).d_model


def test_model_has_room_for_the_tokenizer_s_vocabulary():
    assert FolderSettings().model(4096).vocab_size == 4096
    assert FolderSettings().model(4097).vocab_size == 4160
