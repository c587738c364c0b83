import json

import pytest

from jaxinterp import data


def test_split_depends_on_the_name_alone_and_has_the_share_asked_for():
    names = [f"document {i}" for i in range(5000)]
    sides = data.split([data.Document(n, "a") for n in names], share=0.1)
    again = data.split([data.Document(n, "other text") for n in names[::-1]], share=0.1)
    assert {d.name for d in sides[1]} == {d.name for d in again[1]}
    assert abs(len(sides[1]) / 5000 - 0.1) < 0.02
    assert len(sides[0]) + len(sides[1]) == 5000


def test_installed_text_is_english_from_this_installation():
    documents = data.installed_text()
    names = [d.name for d in documents]
    assert len(set(names)) == len(names)
    assert {"topic", "python", "numpy", "jax"} <= {n.split("/")[0] for n in names}
    assert sum(len(d.text) for d in documents) > 4_000_000
    json_module = next(d for d in documents if d.name == "python/json/__init__.py")
    assert json.__doc__.strip()[:60] in json_module.text


def test_rows_hold_every_token_once_in_order(shipped, rng):
    texts = ["word " * int(n) + "end" for n in rng.integers(1, 60, 20)]
    rows = data.token_rows(
        [data.Document(str(i), t) for i, t in enumerate(texts)], shipped.tokenizer, 16
    )
    ids = shipped.tokenizer.encode_batch(texts)
    assert (rows.tokens[:, 0] == shipped.tokenizer.bos).all()
    for i, expected in enumerate(ids):
        mine = (rows.document == i) & rows.keep
        assert rows.tokens[mine].tolist() == expected
        assert rows.index[mine].tolist() == list(range(len(expected)))
        assert (rows.document[(rows.document == i).any(axis=1), 0] == i).all()
    assert (rows.keep[:, 1:] == rows.mask[:, 1:]).all()
    assert not rows.keep[:, 0].any()


def test_a_text_file_is_cut_into_documents_at_blank_lines(tmp_path):
    path = tmp_path / "book.txt"
    paragraphs = [f"Paragraph {i}. " + "words " * 100 for i in range(40)]
    path.write_text("\n\n".join(paragraphs))
    documents = data.load_text(str(path))
    assert len(documents) > 5
    assert "\n\n".join(d.text for d in documents) == "\n\n".join(p.strip() for p in paragraphs)


def test_tables(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": f"row {i}", "n": i} for i in range(5)]
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(r) + "\n" for r in rows))
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    for path in (lines, table):
        assert [d.text for d in data.load_text(str(path))] == [f"row {i}" for i in range(5)]
        with pytest.raises(ValueError, match="no column 'body'; it has text, n"):
            data.load_text(str(path), column="body")
        with pytest.raises(ValueError, match="'n' holds int64, not text; columns of text: text"):
            data.load_text(str(path), column="n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b"  \n\n ", "only white space"),
        ("latin.txt", "na\u00efve".encode("latin1"), r"not UTF-8 \(byte 2\)"),
        ("broken.jsonl", b"{not json\n", "can't be read as json"),
        ("broken.parquet", b"PAR1 no", "can't be read as parquet"),
        ("mixed.jsonl", b'{"text": "a"}\n{"text": {"b": 1}}\n', "several kinds|can't be read"),
        ("untold.jsonl", b'{"text": ""}\n{"text": null}\n', "holds no text"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        data.load_text(str(path))
    assert name in str(error.value)


def test_missing_sources_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file: nowhere.txt"):
        data.load_text("nowhere.txt")
    with pytest.raises(ValueError, match="no text or table files"):
        data.load_text(str(tmp_path))


def test_rows_need_tokens(shipped):
    with pytest.raises(ValueError, match="no tokens"):
        data.token_rows([data.Document("a", "")], shipped.tokenizer, 8)
    with pytest.raises(ValueError, match="seq=1"):
        data.token_rows([data.Document("a", "b")], shipped.tokenizer, 1)
