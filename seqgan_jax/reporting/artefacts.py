"""What a run wrote of its samples, as HTML: pictures, sound, moving pictures and text.

Files are told apart by their endings alone, so that any task's show.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from PIL import Image

from seqgan_jax.reporting.markup import tag

_PICTURES = (".png", ".gif", ".webp", ".jpg", ".jpeg")
_PLAYERS = {
    ".wav": ("audio", "audio/wav"),
    ".mp3": ("audio", "audio/mpeg"),
    ".ogg": ("audio", "audio/ogg"),
    ".mp4": ("video", "video/mp4"),
    ".webm": ("video", "video/webm"),
}
_TEXTS = (".json", ".txt")
_SIDE = 1400  # pixels that a picture is shown at most
_WIDE = 700  # pixels, from which on it scrolls on a screen that is narrower
_CHARACTERS = 4000  # of a text that is shown
_FILES = 48  # of a folder that are shown
_SHORT = 100  # characters of a picture's description that stand below it too


class Room:
    """How many bytes of files a page still has room for."""

    def __init__(self, size: int):
        self.left = size

    def take(self, data: bytes) -> bool:
        """Whether `data` fits; then its place is taken."""
        fits = len(data) <= self.left
        if fits:
            self.left -= len(data)
        return fits


def media(folder: Path, title: str, base: Path, room: Room) -> Element:
    """A folder's pictures and players, those of one name together; then its plain texts.

    Args:
      folder: of samples.
      title: what it holds, for those who can't see it.
      base: the page's folder, from which files that don't fit are linked.
      room: in the page.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    shown: dict[str, list[Element]] = {}
    texts = []
    for path in files[:_FILES]:
        ending = path.suffix.lower()
        try:
            if ending in _PICTURES:
                shown.setdefault(path.stem, []).append(picture(path, title, base, room))
            elif ending in _PLAYERS:
                shown.setdefault(path.stem, []).append(_player(path, title, base, room))
            elif ending in _TEXTS and _rows(path) is None:
                text = path.read_text(errors="replace")
                cut = f"\n… cut at {_CHARACTERS:,} characters" if len(text) > _CHARACTERS else ""
                body = tag("pre", text[:_CHARACTERS] + cut, tabindex="0", dir="auto")
                texts.append(tag("figure", tag("figcaption", path.name), body))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            texts.append(tag("p", f"{path.name} can't be shown ({error})", class_="note"))
    figures = [
        tag("figure", *parts, tag("figcaption", _caption(folder, stem)), class_="medium")
        for stem, parts in shown.items()
    ]
    if len(files) > _FILES:
        more = f"{len(files) - _FILES} more files are in the folder {folder.name}."
        texts.append(tag("p", more, class_="note"))
    return tag("div", tag("div", *figures, class_="media"), *texts)


def _caption(folder: Path, stem: str) -> str:
    """The name of files, and what a picture of that name says of itself if that is short."""
    try:
        with Image.open(folder / f"{stem}.png") as image:
            told = str(image.info.get("Description", ""))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        told = ""
    return f"{stem}: {told}" if 0 < len(told) <= _SHORT else stem


def picture(path: Path, title: str, base: Path, room: Room) -> Element:
    """A picture, made smaller where it is large; one that moves is left as it is.

    Raises:
      OSError, ValueError, SyntaxError, Image.DecompressionBombError: if it is none.
    """
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        alt = f"{path.stem}, {title}. {image.info.get('Description', '')}".strip()
        kind, size = image.get_format_mimetype(), image.size
        if not getattr(image, "is_animated", False):
            image.load()
            small = image.convert("RGBA" if "A" in image.getbands() else "RGB")
            small.thumbnail((_SIDE, 4 * _SIDE))
            packed = io.BytesIO()
            small.save(packed, "WEBP", quality=80)
            if len(packed.getvalue()) < len(data):
                data, kind, size = packed.getvalue(), "image/webp", small.size
    if not room.take(data):
        return _link(path, base)
    width, height = map(str, size)
    shown = tag("img", src=_uri(data, kind), alt=alt, width=width, height=height)
    # On a narrow screen a sheet of many small pictures is moved about, not shrunk.
    return scrolled(shown, f"{path.stem}, {title}") if size[0] > _WIDE else shown


def _player(path: Path, title: str, base: Path, room: Room) -> Element:
    name, kind = _PLAYERS[path.suffix.lower()]
    data = path.read_bytes()
    if not room.take(data):
        return _link(path, base)
    still = {} if name == "audio" else {"muted": True, "loop": True, "playsinline": True}
    return tag(
        name, src=_uri(data, kind), controls=True, aria_label=f"{path.stem}, {title}", **still
    )


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _link(path: Path, base: Path) -> Element:
    place = path.relative_to(base).as_posix()
    return tag("a", f"{path.name}, which has no room in this page", href=place)


def tables(
    stages: Mapping[str, Path], *, of: str = "stage", open_samples: int = 3
) -> list[Element]:
    """What JSON files of one name say of the same samples at every stage, side by side.

    A file is a list of objects, one for each sample. Fields that all stages agree on say what the
    sample is; the others, and measured ones, are what was made of it. Lists are left out where
    there is text: they are its tokens, and what was measured of each.

    Args:
      stages: folders by title, oldest first.
      of: what the folders are.
      open_samples: how many samples are seen at once; the others unfold.
    """
    names = sorted({path.name for folder in stages.values() for path in folder.glob("*.json")})
    found = []
    for name in names:
        rows = {title: _rows(folder / name) for title, folder in stages.items()}
        rows = {title: listed for title, listed in rows.items() if listed}
        if not rows:
            continue
        count = max(map(len, rows.values()))
        values = [item for listed in rows.values() for row in listed for item in row.items()]
        keys = list(dict.fromkeys(key for key, _ in values))
        if any(isinstance(value, str) for _, value in values):
            lists = {key for key, value in values if isinstance(value, list)}
            keys = [key for key in keys if key not in lists]
        common = [key for key in keys if len(rows) > 1 and _agreed(key, rows.values())]
        own = [key for key in keys if key not in common]
        samples = [_sample(i, of, rows, common, own) for i in range(count)]
        found.append(tag("h3", Path(name).stem))
        found += samples[:open_samples]
        if rest := samples[open_samples:]:
            said = f"{len(rest)} more of {Path(name).stem}"
            found.append(tag("details", tag("summary", said), *rest))
    return found


def _rows(path: Path) -> list[dict[str, Any]] | None:
    """The objects that a JSON file lists, or None."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        return content
    return None


def _agreed(key: str, stages: Sequence[Sequence[Mapping]]) -> bool:
    """Whether all stages have the same values of a field, sample by sample, none measured."""
    if any(isinstance(row.get(key), float) for rows in stages for row in rows):
        return False
    count = max(map(len, stages))
    values = [[json.dumps(row.get(key)) for row in rows] for rows in stages]
    return all(len(column) == count and column == values[0] for column in values)


def _sample(
    i: int,
    of: str,
    stages: Mapping[str, Sequence[Mapping]],
    common: Sequence[str],
    own: Sequence[str],
) -> Element:
    known = next(rows[i] for rows in stages.values() if i < len(rows))
    said = "; ".join(f"{key}: {value_text(known.get(key))}" for key in common)
    caption = tag("caption", f"sample {i + 1}" + (f", {said}" if said else ""), dir="auto")
    rows_here = {title: rows[i] for title, rows in stages.items() if i < len(rows)}
    how = {
        key: {"class_": "number"}
        if all(_is_number(row.get(key)) for row in rows_here.values())
        else {"dir": "auto"}
        for key in own
    }
    titles = (tag("th", key, scope="col", class_=how[key].get("class_")) for key in own)
    head = tag("tr", tag("th", of, scope="col"), *titles)
    body = []
    for title, row in rows_here.items():
        cells = (tag("td", value_text(row.get(key)), **how[key]) for key in own)
        body.append(tag("tr", tag("th", title, scope="row"), *cells))
    table = tag("table", caption, tag("thead", head), tag("tbody", *body), class_="samples")
    return scrolled(table, f"sample {i + 1}")


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def scrolled(content: Element, label: str) -> Element:
    """Something that scrolls where the page is narrower than it, by keyboard too."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


def value_text(value: Any) -> str:
    """A value of JSON as a person writes it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and not any(isinstance(x, list | dict) for x in value):
        separator = " / " if any(isinstance(x, str) and " " in x for x in value) else " "
        return separator.join(map(value_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
