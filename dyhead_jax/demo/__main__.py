"""A page in the browser for trying a trained model on pictures.

python -m dyhead_jax.demo --help
"""

from dyhead_jax import command


def _main() -> None:
    parser = command.parser(
        "python -m dyhead_jax.demo",
        "A page in the browser for trying a trained model: drop a picture on it, and boxes appear.\n\n"
        "The score threshold is a slider, and a click shows where the attentions read. The page is for this machine\n"
        "only (it listens on 127.0.0.1); pictures stay in memory, and nothing is written to disk. Ctrl-C ends it.",
        "  python -m dyhead_jax.demo --workdir runs/mine\n  python -m dyhead_jax.demo --workdir runs/mine --port 8123",
    )
    command.add_model_options(parser)
    parser.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1; 0: any free one (default: 8000)")
    options = command.parse(parser)
    command.no_overrides(options)
    if not 0 <= options.port <= 65535:
        raise command.UsageError(f"--port {options.port}: it must be from 0 to 65535")

    from dyhead_jax.demo.answers import Answers  # JAX takes a second to import
    from dyhead_jax.demo.server import HOST, Server
    from dyhead_jax.evaluation.trained_model import load_for_inference

    answers = Answers(load_for_inference(options.workdir, options.step, trust=options.trust))
    try:
        server = Server(answers, options.port)
    except OSError as error:
        raise OSError(f"port {options.port} of {HOST}: {error.strerror}; choose another by --port") from error
    print(f"open {server.address} (Ctrl-C ends it)", flush=True)
    with server:
        server.serve_forever()


if __name__ == "__main__":
    command.run(_main)
