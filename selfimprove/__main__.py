"""python -m selfimprove spin --iter 2: the same rounds as the notebook, without one (also under `accelerate launch -m`)."""

import argparse
import sys

from accelerate import PartialState
from tqdm.auto import tqdm

from selfimprove.config import PRESETS, get_preset
from selfimprove.plan import plan
from selfimprove.report import ceiling_sentence, read_training, score_table, write_summary
from selfimprove.request import Request
from selfimprove.rounds import play, set_up


def _arguments() -> Request:
    parser = argparse.ArgumentParser(prog="python -m selfimprove", description=__doc__)
    commands = parser.add_subparsers(required=True)
    spin = commands.add_parser("spin", help="play self-play rounds up to --iter")
    spin.add_argument("--iter", type=int, required=True, help="the round to play; missing earlier rounds are played first")
    spin.add_argument("--preset", default="shapes-spin", help=f"one of {', '.join(PRESETS)}")
    spin.add_argument("--model", default="", help="'shapes', a pipeline folder or a hub id; default: the preset's")
    spin.add_argument("--data", default="", help="'shapes' or an imagefolder; default: the preset's")
    spin.add_argument("--run", default="", help="run folder; default: runs/<preset>-<identity>")
    spin.add_argument("--seed", type=int, default=0)
    spin.add_argument("--device", default="", help="cpu, cuda, ...; default: a GPU if there is one")
    return Request(**vars(parser.parse_args()))


def main() -> None:
    """Play, and say where everything is; errors of use end with one line that says what to do."""
    try:
        request = _arguments()
        game = set_up(get_preset(request.preset), request.preset, request.model, request.data, request.run, request.seed, request.device)
        if PartialState().is_main_process:
            print("\n".join(plan(game, request.iter).lines), flush=True)
        infos = play(game, request.iter)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    if PartialState().is_main_process:
        log = infos[-1].log
        assert log is not None
        tqdm.write(score_table(infos).to_string())
        print(ceiling_sentence(infos[-1]), read_training(log, game.preset.for_round(request.iter)), sep="\n")
        for what, where in write_summary(game, infos).items():
            print(f"{what}: {where}")


if __name__ == "__main__":
    main()
