import json

import pytest

from jaxinterp.encoders.vocabulary import find_tokenizer

VOCABULARY = {"<unk>": 0, "[end]": 1, "[start]": 2, "[fill]": 3, "tea": 4, "cup": 5}


def write_fast(folder, **special):
    model = {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "<unk>"}
    content = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "Whitespace"}}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    if special:
        (folder / "tokenizer_config.json").write_text(json.dumps(special))


def test_special_tokens_are_those_the_folder_names(tmp_path):
    write_fast(tmp_path, bos_token={"content": "[start]"}, pad_token="[fill]", eos_token="[end]")
    tokenizer = find_tokenizer(tmp_path)
    assert (tokenizer.bos, tokenizer.pad, tokenizer.size) == (2, 3, 6)
    assert tokenizer.encode_batch(["tea cup", "cup"]) == [[4, 5], [5]]
    assert tokenizer.pieces([4, 5]) == ["tea", "cup"]


def test_what_a_file_cuts_and_fills_texts_to_is_left_out(tmp_path):
    write_fast(tmp_path, bos_token="[start]", pad_token="[fill]")
    path = tmp_path / "tokenizer.json"
    length = {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    fill = {"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": None}
    fill |= {"pad_id": 3, "pad_type_id": 0, "pad_token": "[fill]"}
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"truncation": length, "padding": fill})
    )
    assert find_tokenizer(tmp_path).encode_batch(["tea cup tea", "cup"]) == [[4, 5, 4], [5]]


def test_an_end_token_stands_in_for_what_is_not_named(tmp_path):
    write_fast(tmp_path, eos_token="[end]")
    assert find_tokenizer(tmp_path)[1:] == (1, 1)


def test_no_token_to_start_with(tmp_path):
    write_fast(tmp_path)
    with pytest.raises(ValueError, match="to start a row with"):
        find_tokenizer(tmp_path)


def test_older_files_go_through_transformers(tmp_path):
    pytest.importorskip("transformers", reason="older tokenizer files need transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "tea", "cup", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    tokenizer = find_tokenizer(tmp_path)
    assert (tokenizer.bos, tokenizer.pad, tokenizer.size) == (2, 0, 8)
    assert tokenizer.encode_batch(["Tea cups"]) == [[5, 6, 7]]
    assert tokenizer.pieces([5, 7]) == ["tea", "##s"]


def test_no_tokenizer_and_a_broken_one(tmp_path):
    assert find_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="can't be read as a tokenizer"):
        find_tokenizer(tmp_path)
