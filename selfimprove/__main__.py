"""Play the rounds of the notebooks on the command line: python -m selfimprove spin --iter 2, or rsi (also by `accelerate launch -m`)."""

import argparse
import sys

from accelerate import PartialState
from tqdm.auto import tqdm

from selfimprove.errors import SelfImproveError
from selfimprove.planning.plan import plan
from selfimprove.presets import PRESETS
from selfimprove.report import ceiling_sentence, read_training, score_table, write_summary
from selfimprove.request import Request, RsiRequest
from selfimprove.rounds import play
from selfimprove.run import set_up


def _arguments() -> tuple[Request, str]:
    """Return the request, and the folder of the opponent cache, empty for none."""
    parser = argparse.ArgumentParser(prog="python -m selfimprove", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="system")
    for system, kind, what in (
        ("spin", Request, "play self-play rounds up to --iter"),
        ("rsi", RsiRequest, "rounds of recursive self-improvement up to --iter"),
    ):
        command = commands.add_parser(system, help=what)
        presets = [name for name, preset in PRESETS.items() if preset.settings.objective in kind.objectives]
        command.add_argument("--iter", type=int, required=True, help="the round to play; missing earlier rounds are played first")
        command.add_argument("--preset", default="", help=f"one of {', '.join(presets)}; default: by what is given")
        command.add_argument("--model", default="", help="'shapes', a pipeline folder or a hub id; default: the preset's")
        command.add_argument(
            "--data", default="", help="'shapes', or captioned images or pairs: a folder, table, shards, tar, id; default: the preset's"
        )
        if kind is RsiRequest:
            command.add_argument("--prompts", default="", help="'shapes', a file of prompts, or a datasets id; default: the preset's")
        command.add_argument("--run", default="", help="run folder; default: runs/<preset>-<identity>")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--scorers", default="", help="published ones that judge, each a name or name=path; or none")
        if kind is Request:
            command.add_argument(
                "--opponent-cache",
                default="",
                help="folder where the opponent's images and errors are kept, for a sweep of beta, lr, steps",
            )
        command.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="settings to change in every round, with commas; repeatable"
        )
        command.add_argument("--device", default="", help="cpu, cuda, ...; default: a GPU if there is one")
    given = vars(parser.parse_args())
    cache, kind = given.pop("opponent_cache", ""), RsiRequest if given.pop("system") == "rsi" else Request
    return kind(**given | {"set": ", ".join(given["set"])}), cache


def main() -> None:
    """Play the rounds and print where the results are; after an error of use, exit with one line that says what to do."""
    try:
        request, cache = _arguments()
        prompts = request.prompts if isinstance(request, RsiRequest) else ""
        run = set_up(
            request.chosen_preset(), request.name, request.model, request.data, request.run, request.seed, request.device, prompts,
            opponent_cache=cache,
        )  # fmt: skip
        if PartialState().is_main_process:
            print("\n".join([*request.said, *run.account(), *plan(run, request.iter).lines]), flush=True)
        infos = play(run, request.iter)
    except SelfImproveError as error:
        sys.exit(f"error: {error}")
    if PartialState().is_main_process:
        log = infos[-1].log
        assert log is not None
        tqdm.write(score_table(infos).to_string())
        print(ceiling_sentence(infos[-1]), read_training(log, run.preset.for_round(request.iter)), sep="\n")
        for what, where in write_summary(run, infos).items():
            print(f"{what}: {where}")


if __name__ == "__main__":
    main()
