"""python -m dyhead_jax.data prepare coco --source DIR --out DIR"""

from pathlib import Path

from dyhead_jax import command


def _main() -> None:
    parser = command.parser(
        "python -m dyhead_jax.data",
        "Packs a data set into array_record files, for fast random access on any disk.\n\n"
        "prepare coco takes COCO 2017 as it is published: train2017.zip, val2017.zip and\n"
        "annotations_trainval2017.zip, or the folders that are in them. Nothing is downloaded. The schema is that of\n"
        "tfds coco/2017 with sizes, float areas and the file's own boxes added. It needs as much space as the zips.\n"
        "If it is interrupted, the same command goes on.",
        "  python -m dyhead_jax.data prepare coco --source /data/coco_zips --out /data/coco\n"
        "  python train.py --config=configs/atss_r50_dyhead_1x.py --config.data.root=/data/coco ...",
    )
    parser.add_argument("action", choices=["prepare"])
    parser.add_argument("data_set", choices=["coco"])
    parser.add_argument("--source", type=Path, required=True, help="folder with the zips, or with what is in them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the prepared data set")
    options = command.parse(parser)
    command.no_overrides(options)

    from dyhead_jax.data.packing.coco_release import SPLITS, prepare_coco

    counts = prepare_coco(options.source, options.out)
    for split, count in counts.items():
        resumed = f" ({count.resumed} of them packed before)" if count.resumed else ""
        print(f"{SPLITS[split]}: {count.images} images{resumed}, {count.boxes} boxes")
    print(f"{options.out} is complete")


if __name__ == "__main__":
    command.run(_main)
