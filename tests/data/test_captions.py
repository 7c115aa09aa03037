import pytest
from ml_collections import ConfigDict

from seqgan_jax.data.captions import data_folder, keep_out, read_captions
from seqgan_jax.errors import UserError


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_commas_quotes_and_other_scripts(tmp_path):
    path = write(
        tmp_path / "captions.txt",
        '\ufeffimage,caption\r\nb.jpg,"A ""big"" dog, running ."\r\na.jpg,A cat , a dog\r\n\r\n'
        'b.jpg,两只狗\r\na.jpg,it says "no" \r\nc.jpg,  \r\n',
    )
    assert read_captions(path) == {
        "a.jpg": ("A cat , a dog", 'it says "no"'),
        "b.jpg": ('A "big" dog, running .', "两只狗"),
    }
    assert list(read_captions(path)) == ["a.jpg", "b.jpg"]


def test_columns_in_any_order(tmp_path):
    path = write(tmp_path / "captions.txt", 'caption,number,image\n"A, b",0,a.jpg\n')
    assert read_captions(path) == {"a.jpg": ("A, b",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,text\na.jpg,A dog\n", "no column 'caption'"),
        ("a.jpg,A dog\n", "no column 'image'"),
        ("", "no column 'image'"),
        ("image,caption\n", "no captions"),
        ("image,caption\na.jpg,\n", "no captions"),
        ("image,caption\na.jpg,A dog\nb.jpg\n", "line 3 has 1 of 2 columns"),
        (b"image,caption\na.jpg,A dog\nb.jpg,caf\xe9\n", "line 3 is not UTF-8 .byte 0xe9"),
        ('image,caption\na.jpg,"A dog\nb.jpg,A cat\n', "before line 3 is never closed"),
        ("image,caption\na.jpg," + "x" * 200_000, "line 2: field larger"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, message):
    path = write(tmp_path / "captions.txt", text)
    with pytest.raises(UserError, match=message) as error:
        read_captions(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_or_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"captions\.txt: can't be read"):
        read_captions(tmp_path / "captions.txt")
    with pytest.raises(UserError, match=r"say --config\.data\.path=FOLDER"):
        data_folder(ConfigDict({"path": None}), "photos")
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        data_folder(ConfigDict({"path": str(tmp_path / "nowhere")}), "photos")


def splits(names, validation, test):
    return keep_out(names, ConfigDict({"validation_size": validation, "test_size": test}))


def test_the_split_depends_on_the_names_alone():
    names = [f"{i}.jpg" for i in range(500)]
    first = splits(names, 50, 70)
    assert [len(first[split]) for split in ("train", "validation", "test")] == [380, 50, 70]
    assert sorted(first["train"] + first["validation"] + first["test"]) == sorted(names)
    assert splits(reversed(names), 50, 70) == first
    # Another validation size doesn't move the test set.
    assert splits(names, 10, 70)["test"] == first["test"]
    # New images may push some out of what is kept out, but never pull any in.
    more = splits([*names, "new.jpg", "newer.jpg"], 50, 70)
    assert set(first["train"]) <= set(more["train"])


def test_something_must_be_left_to_train_on():
    names = ["a", "b", "c"]
    assert len(splits(names, 1, 1)["train"]) == 1
    with pytest.raises(UserError, match="= 3 of 3 images leave nothing to train on"):
        splits(names, 1, 2)
    assert keep_out(names, ConfigDict({"validation_size": 1, "test_size": 2}), rest=False)
    for sizes, option in (((1, -1), "test_size"), ((0, 1), "validation_size")):
        with pytest.raises(UserError, match=rf"^config\.data\.{option}: .* leaves none"):
            splits(names, *sizes)
