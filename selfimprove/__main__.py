"""Play the rounds of the notebooks on the command line: python -m selfimprove spin --iter 2, or rsi (also by `accelerate launch -m`).

With finished rounds: prune deletes old rollouts, export writes a player in half precision, push uploads one to the Hugging Face hub.
"""

import argparse
import sys
import warnings
from typing import Any

from tqdm.auto import tqdm

from selfimprove.errors import SelfImproveError
from selfimprove.presets import PRESETS
from selfimprove.request import Request, RsiRequest


def _arguments() -> dict[str, Any]:
    """Return the command's arguments by name; "command" is its name."""
    parser = argparse.ArgumentParser(prog="python -m selfimprove", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    for system, kind, what in (
        ("spin", Request, "play self-play rounds up to --iter"),
        ("rsi", RsiRequest, "rounds of recursive self-improvement up to --iter"),
    ):
        command = commands.add_parser(system, help=what)
        presets = [name for name, preset in PRESETS.items() if preset.settings.objective in kind.objectives]
        command.add_argument("--iter", type=int, required=True, help="the round to play; missing earlier rounds are played first")
        command.add_argument("--preset", default="", help=f"one of {', '.join(presets)}; default: by what is given")
        command.add_argument("--model", default="", help="'shapes', a pipeline folder, checkpoint or hub id; default: the preset's")
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
        command.add_argument("--latent-cache", default="", help="folder of latents and texts that runs share; without --run: runs/latents")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help='settings to change in every round, with commas, or "round 2 NAME=VALUE" in one; repeatable',
        )
        command.add_argument(
            "--share", default="", metavar="I/N", help="make only this share of rollouts and scores, one of N commands on any machines"
        )
        command.add_argument("--device", default="", help="cpu, cuda, ...; default: a GPU if there is one")
    command = commands.add_parser("prune", help="delete the rollouts of finished rounds that no later round reads")
    command.add_argument("run", help="the run folder")
    command.add_argument("--last", action="store_true", help="also those of the last finished round")
    for name, target, what in (
        ("export", "into", "write a player in half precision to a new folder"),
        ("push", "to", "upload a player to a repository of the Hugging Face hub"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("run", help="the run folder")
        command.add_argument(f"--{target}", required=True, metavar={"into": "FOLDER", "to": "OWNER/NAME"}[target])
        command.add_argument("--round", type=int, default=0, help="default: the last finished round")
    command.add_argument("--lora", action="store_true", help="the adapter, the whole difference to the base, in place of the pipeline")
    command.add_argument("--half", action="store_true", help="in half precision")
    command.add_argument("--public", action="store_true", help="a repository that is made now can be read by everybody")
    return vars(parser.parse_args())


def _play(given: dict[str, Any], kind: type[Request]) -> None:
    """Play the rounds that are asked for and print where the results are."""
    from accelerate import PartialState  # torch and what builds on it only now: help and errors of use come at once

    from selfimprove.planning.plan import plan
    from selfimprove.processes import IncompleteError, take_share
    from selfimprove.report import ceiling_sentence, read_training, score_table, write_summary
    from selfimprove.rounds import play, play_share
    from selfimprove.run import set_up

    share = take_share(given.pop("share"))
    caches = {name: given.pop(name, "") for name in ("opponent_cache", "latent_cache")}
    request = kind(**given | {"set": ", ".join(given["set"])})
    prompts = request.prompts if isinstance(request, RsiRequest) else ""
    run = set_up(
        request.chosen_preset(), request.name, request.model, request.data, request.run, request.seed, request.device, prompts,
        **caches,
    )  # fmt: skip
    if share:
        try:
            play_share(run, request.iter)
            print(f"share {share} is made, and so are the others; the same command without --share goes on")
        except IncompleteError as error:
            print(f"share {share} is made; {error}")
        return
    if PartialState().is_main_process:
        print("\n".join([*request.said, *run.account(), *plan(run, request.iter).lines]), flush=True)
    infos = play(run, request.iter)
    if PartialState().is_main_process:
        log = infos[-1].log
        assert log is not None
        tqdm.write(score_table(infos).to_string())
        print(ceiling_sentence(infos[-1]), read_training(log, run.preset.for_round(request.iter)), sep="\n")
        for what, where in write_summary(run, infos).items():
            print(f"{what}: {where}")


def _publish(command: str, given: dict[str, Any]) -> str:
    """Return what was done with a finished run."""
    from selfimprove.planning.plan import unit
    from selfimprove.publishing.hub import export, player, push
    from selfimprove.publishing.prune import prune

    if command == "prune":
        return f"{unit(float(prune(given['run'], given['last'])))}B freed"
    if command == "export":
        return f"model: {export(player(given['run'], given['round']), given['into'])}"
    source = player(given["run"], given["round"], "lora" if given["lora"] else "pipeline")
    return f"model: {push(source, given['to'], not given['public'], given['half'] and not given['lora'])}"


def main() -> None:
    """Do what the command line asks for; after an error of use, exit with one line that says what to do."""
    given = _arguments()
    warnings.showwarning = lambda message, *_: tqdm.write(f"warning: {message}", file=sys.stderr)  # without the line of code
    command = given.pop("command")
    try:
        if command in ("spin", "rsi"):
            _play(given, RsiRequest if command == "rsi" else Request)
        else:
            print(_publish(command, given))
    except SelfImproveError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is finished", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
