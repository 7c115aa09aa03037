"""Sentences of documentation: found in hand-made text, and enough of them in the library."""

import sysconfig

from seqgan_jax.data import docstrings

TEXT = """Return the sum. It is exact!

Too short.
The line ends
here, doesn't it?  And this has no end

    >>> total(3)
    The sum of three.

- An item of a list.
"""


def test_sentences_of_prose_alone():
    assert list(docstrings.split_sentences(TEXT)) == [
        "Return the sum.",
        "It is exact!",
        "The line ends here, doesn't it?",
    ]


def test_a_library_in_the_order_of_its_files(tmp_path, monkeypatch):
    (tmp_path / "b.py").write_text('def f():\n    """The last of all."""\n')
    (tmp_path / "a.py").write_text(
        '"""One comes first. The last of all."""\nclass C:\n    "It is C."'
    )
    (tmp_path / "c.py").write_text("def broken(:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.py").write_text('"""This is a test."""')
    raised = tmp_path / "d.py"
    raised.write_text('"""It is not imported."""\nraise SystemExit\n')
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    found = list(docstrings.sentences(None))
    assert found == ["One comes first.", "The last of all.", "It is C.", "It is not imported."]
    assert docstrings.key(None)[1] == str(tmp_path)
