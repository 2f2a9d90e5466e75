"""How does the best lambda move with the width of a vision transformer? ImageNet, or any folder of
images (GPUs; ``pip install 'robsearch[timm]'``)."""

import optuna

from robsearch import (
    PGD,
    TRADES,
    AdamW,
    Cosine,
    CropFlip,
    Fixed,
    Folder,
    Recipe,
    Resources,
    TimmNet,
    space,
)

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def gpu(width: float) -> Resources:
    """Several GPUs train one of the widest nets together."""
    return Resources(cpus=4, gpus=4 if width > 1 else 1)


@space(widths=(0.5, 1, 2), resources=gpu)
def imagenet(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda for each of ViT-Ti, ViT-S and ViT-B; TRADES against 4/255.

    The images are in ``imagenet/train/CLASS`` and ``imagenet/test/CLASS`` of the folder in which
    it is launched. Each takes 150 kB in the node's store, 1.28 million of them 193 GB.
    """
    return Recipe(
        model=TimmNet("vit_small_patch16_224", width, {"drop_path_rate": 0.1}),
        data=Folder("imagenet", size=(224, 224), resize=True, mean=MEAN, std=STD),
        attack=PGD(eps=4 / 255, step_size=2 / 255, steps=3, start="gaussian"),
        objective=TRADES(),
        lam=Fixed(trial.suggest_float("lam", 0.5, 32.0, log=True)),
        optimiser=AdamW(lr=1e-3, weight_decay=0.05, decay_norms=False),
        learning_rate=Cosine(warmup=0.1),
        clip_gradient=1.0,
        augment=CropFlip(padding=16),
        precision="bf16",
        epochs=100,
        batch_size=512,
    )
