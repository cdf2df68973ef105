"""A folder with tiny models and files, as a user has it."""

from tests.inference.server.serving_process import write_model
from tests.recipe.align import toy


def write(folder):
    """Writes models/mine, models/reward, pairs.jsonl, chats.jsonl, labels.jsonl."""
    (folder / "models").mkdir()
    write_model(folder / "models/mine")
    write_model(folder / "models/reward", num_attributes=5)
    toy.write(folder / "pairs.jsonl", toy.pairs(12))
    toy.write(folder / "chats.jsonl", toy.demonstrations(12))
    toy.write(folder / "labels.jsonl", toy.labels(12))
    return folder


def enter(home, folder, monkeypatch):
    """Makes a folder the current one, in which all of a home can be seen."""
    for path in home.iterdir():
        (folder / path.name).symlink_to(path)
    monkeypatch.chdir(folder)
    return folder
