"""Dictionaries on the hub, with a client that keeps the repositories in a folder."""

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxinterp.dictionaries import formats
from jaxinterp.dictionaries.formats import hub, lazy

FIXTURES = Path(__file__).parent / "fixtures" / "saelens"


class FakeHub:
    """What `hub` uses of huggingface_hub."""

    def __init__(self, root, cache):
        self.root, self.cache, self.fetched, self.commits = root, cache, [], []
        self.CommitOperationAdd = lambda at, content: SimpleNamespace(at=at, content=content)

    def HfApi(self):
        return self

    def list_repo_files(self, repo, revision=None):
        if not (self.root / repo).is_dir():
            raise KeyError(f"no repository {repo} for token hf_secretSecret1")
        files = [p for p in (self.root / repo).rglob("*") if p.is_file()]
        return [p.relative_to(self.root / repo).as_posix() for p in files]

    def snapshot_download(self, repo, revision=None, allow_patterns=None):
        for name in allow_patterns:
            self.fetched.append(name)
            target = self.cache / repo / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.root / repo / name, target)
        return str(self.cache / repo)

    def create_repo(self, repo, private, exist_ok):
        (self.root / repo).mkdir(parents=True, exist_ok=exist_ok)

    def create_commit(self, repo, operations, commit_message):
        if "refused" in repo:
            raise RuntimeError("401 for hf_secretSecret1")
        self.commits.append(commit_message)
        for operation in operations:
            target = self.root / repo / operation.at
            target.parent.mkdir(parents=True, exist_ok=True)
            content = operation.content
            target.write_bytes(
                content if isinstance(content, bytes) else Path(content).read_bytes()
            )


@pytest.fixture
def client(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub", tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_a_dictionary_comes_back_from_the_hub(client):
    name = hub.upload(FIXTURES / "topk", "someone/dictionaries/layer_2/topk")
    hub.upload(FIXTURES / "jumprelu", "someone/dictionaries/layer_2/jumprelu")
    assert len(client.commits) == 2
    stored = formats.open_stored(name)
    for tensor, value in formats.open_stored(FIXTURES / "topk").tensors.items():
        np.testing.assert_array_equal(lazy.whole(stored.tensors[tensor]), lazy.whole(value))
    assert all(n.startswith("layer_2/topk/") for n in client.fetched)
    with pytest.raises(ValueError, match=r"\(2\): layer_2/jumprelu, layer_2/topk"):
        formats.open_stored("someone/dictionaries")


def test_what_is_hidden_stays_here(client, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(FIXTURES / "topk", folder)
    for name in (".netrc", ".git/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("password")
    hub.upload(folder, "someone/one")
    sent = {p.name for p in (client.root / "someone/one").rglob("*") if p.is_file()}
    assert sent == {"README.md", *(p.name for p in (FIXTURES / "topk").iterdir())}


def test_a_card_says_what_the_dictionary_is(client):
    hub.upload(FIXTURES / "jumprelu_whitened", "someone/one")
    card = (client.root / "someone/one/README.md").read_text()
    assert card.startswith("---\nlibrary_name: jaxinterp\ntags:\n- sparse-autoencoder\n")
    assert "- saelens\n" in card
    assert "| width | 20 latents, reads 8 |" in card
    assert "| site | blocks.2.hook_resid_post |" in card
    assert "| normalisation | centre and matrix 8 x 8 |" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    scope = {"activations": np.ones((2, 8), np.float32)}
    code = code.replace("(params, activations)", "(params, jnp.asarray(activations))")
    exec("import jax.numpy as jnp\n" + code, scope)
    assert scope["reconstruction"].shape == (2, 8)


def test_what_the_hub_refuses_is_told_without_the_token(client):
    with pytest.raises(ValueError, match="neither here nor on the hub: KeyError") as one:
        formats.open_stored("someone/nothing")
    with pytest.raises(ValueError, match="the hub refused 'refused/one': RuntimeError: 401") as two:
        hub.upload(FIXTURES / "topk", "refused/one")
    assert "secret" not in f"{one.value} {two.value}"
    with pytest.raises(ValueError, match="'one' is no name on the hub"):
        hub.upload(FIXTURES / "topk", "one")


def test_without_the_client_a_folder_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install 'jaxinterp\\[hub\\]', or give a folder"):
        formats.open_stored("someone/one")
