"""Shows what the attentions of a trained model do with a photograph.

python -m dyhead_jax.look --help
"""

from pathlib import Path

from dyhead_jax import command


def _main() -> None:
    parser = command.parser(
        "python -m dyhead_jax.look",
        "Shows what the attentions of a trained model do with a photograph.\n\n"
        "Writes index.html, one page with everything in it, and its pictures as PNG files into the folder --out:\n"
        "where the spatial attention reads for a point, how the scale attention weighs the levels, how the task\n"
        "attention switches channels, and the feature maps before and after each block. An attention of your own\n"
        "takes part by "
        'self.sow("intermediates", name, value): see dyhead_jax/look/__init__.py.',
        "  python -m dyhead_jax.look --workdir runs/mine --image photo.jpg --out looked\n"
        "  python -m dyhead_jax.look --workdir runs/mine --image photo.jpg --out looked --point 320,200 --level 1",
    )
    command.add_model_options(parser)
    parser.add_argument("--image", type=Path, required=True, help="image file; turned upright by its EXIF orientation")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page and pictures; created if missing")
    parser.add_argument(
        "--point", metavar="X,Y", help="point to look at, in pixels (default: the centre of the best detection)"
    )
    parser.add_argument(
        "--level", type=int, help="level of the pyramid, 0 the finest (default: by the size of the best detection)"
    )
    options = command.parse(parser)
    command.no_overrides(options)
    point = None if options.point is None else _point(options.point)
    if options.out.exists() and not options.out.is_dir():
        raise command.UsageError(f"--out {options.out}: is a file; give a folder")

    from dyhead_jax.inference.pictures import read  # Pillow and JAX take a second; wrong arguments are reported before

    image = read(options.image)

    from dyhead_jax.evaluation.trained_model import load_for_inference
    from dyhead_jax.look.write import write

    loaded = load_for_inference(options.workdir, options.step, trust=options.trust)
    print(write(loaded, image, options.image, options.out, point, options.level))


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(number) for number in text.split(","))
    except ValueError:
        raise command.UsageError(f"--point {text}: give two numbers, as in 320,200") from None
    return x, y


if __name__ == "__main__":
    command.run(_main)
