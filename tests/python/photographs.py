"""Writes an image-text corpus the way other programs do: Parquet by pyarrow, JPEG photographs.

    python photographs.py FOLDER ROWS

The pictures are crops of the two photographs that ship inside scikit-learn's wheel. A caption says
which photograph, which part of it and how bright, so that it can be read off the crop. FOLDER gets two
Parquet files with the columns `image` (struct of bytes and path) and `caption`.
"""

import importlib.util
import io
import pathlib
import random
import sys

import pyarrow
import pyarrow.parquet
from PIL import Image, ImageStat

PHOTOGRAPHS = {"a temple": "china.jpg", "a flower": "flower.jpg"}
ROWS_PER_GROUP = 32
FILES = 2


def photographs():
    """The photographs by subject; scikit-learn is located, not imported."""
    package = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    folder = pathlib.Path(package) / "datasets" / "images"
    return {subject: Image.open(folder / file).convert("RGB") for subject, file in PHOTOGRAPHS.items()}


def example(number, photos, choose):
    """One row: a crop at a random place and of a random size, and its caption."""
    subject = choose.choice(sorted(photos))
    photo = photos[subject]
    side = choose.randrange(80, 240)
    left = choose.randrange(photo.width - side)
    top = choose.randrange(photo.height - side)
    crop = photo.crop((left, top, left + side, top + side))
    horizontal = "left" if left + side / 2 < photo.width / 2 else "right"
    vertical = "upper" if top + side / 2 < photo.height / 2 else "lower"
    brightness = sum(ImageStat.Stat(crop).mean) / 3
    light = "dark" if brightness < 100 else "bright"
    encoded = io.BytesIO()
    crop.save(encoded, format="JPEG", quality=90)
    return {
        "image": {"bytes": encoded.getvalue(), "path": f"{number:06}.jpg"},
        "caption": f"a {light} picture of the {vertical} {horizontal} of {subject}",
    }


def main(folder, rows):
    """Writes the corpus; the same arguments always choose the same crops."""
    photos = photographs()
    choose = random.Random(20)
    examples = [example(number, photos, choose) for number in range(rows)]
    schema = pyarrow.schema(
        [
            ("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
            ("caption", pyarrow.string()),
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(FILES):
        table = pyarrow.Table.from_pylist(examples[file::FILES], schema=schema)
        path = folder / f"photographs-{file:05}-of-{FILES:05}.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=ROWS_PER_GROUP)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
