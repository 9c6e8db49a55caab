"""Build the action codebook; train the tokenizer, the VLM, the expert, its ablations or a blind baseline; fine-tune the VLM by reinforcement."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

COMMON = "Any key of the configuration can be changed on the command line, e.g. loop.seconds=600. The same command again continues a stopped run."
EXAMPLES = {
    "codebook": "spanvla train codebook --data data/demo --out codebook.safetensors size=2048",
    "tokenizer": "spanvla train tokenizer --config config/train/demo_vlm.yaml --data data/demo --run demo-vlm",
    "vlm": "spanvla train vlm --config config/train/demo_vlm.yaml --data data/demo --run demo-vlm loop.seconds=600",
    "expert": "spanvla train expert --config config/train/demo_expert.yaml --data data/demo --run demo-expert vlm=demo-vlm",
    "rft": "spanvla train rft --config config/train/demo_rft.yaml --data data/demo --run demo-rft model=demo-vlm",
    "ablation": "spanvla train ablation --config config/train/ablation.yaml --data data/demo --run ablation --vlm demo-vlm-0 demo-vlm-1 demo-vlm-2",
    "ego_mlp": "spanvla train ego_mlp --config config/train/ego_mlp.yaml --data data/demo --run ego-mlp",
}
HELP = {
    "codebook": "action codebook by K-disk from the motions of a data set, and what it loses on held-out ones",
    "tokenizer": "byte-level BPE on the prompts and reasoning texts of a data set",
    "vlm": "stage 0 and 1: vision on simulator labels, then reasoning in text",
    "expert": "stage 2: flow-matching action expert on the cached keys and values of a trained VLM",
    "rft": "reinforcement fine-tuning: GRPO of the VLM on positive, negative and recovery samples; train the expert again afterwards",
    "ablation": "stage 2 in many variants from the same stage-one models: a table of errors, PDM scores and times",
    "ego_mlp": "baseline: a network that knows the ego's motion and the command and sees nothing, as ONNX",
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("train", help=__doc__, description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True, metavar=f"{{{','.join(HELP)}}}")
    for stage, text in HELP.items():
        sub = stages.add_parser(
            stage,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. {COMMON}",
            epilog=f"example:\n  {EXAMPLES[stage]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="data set with splits train and validation")
        if stage == "codebook":
            sub.add_argument("--config", type=Path, metavar="FILE", help="YAML (default: size 2048, 0.5 s, disks of 0.05 m)")
            sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")
        else:
            sub.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML of config/train/")
            sub.add_argument("--run", metavar="NAME", help="name of the run folder below $SPANVLA_RUNS (default: name of the configuration)")
        if stage == "ablation":
            sub.add_argument("--vlm", required=True, nargs="+", metavar="RUN", help="stage-one runs, one seed each")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")


def run(args: argparse.Namespace) -> int:
    from spanvla_ros import config as configs
    from spanvla_ros.contracts import ConfigError
    from spanvla_ros.share import runs

    if args.stage == "codebook":
        from spanvla_ros.training.codebook import CodebookConfig, run_codebook

        run_codebook(configs.load(CodebookConfig, args.config, args.overrides), args.data, args.out, say)
        return 0
    from spanvla_ros.training.expert import ExpertConfig, run_expert
    from spanvla_ros.training.processes import launch
    from spanvla_ros.training.vlm import VlmConfig, ensure_tokenizer, run_vlm

    name = args.run or args.config.stem
    if args.stage == "expert":
        expert = configs.load(ExpertConfig, args.config, args.overrides)
        launch(expert.processes, run_expert, (expert, args.data, name, say))
        return 0
    if args.stage == "rft":
        from spanvla_ros.training.rft import RftConfig, run_rft

        rft = configs.load(RftConfig, args.config, args.overrides)
        launch(rft.processes, run_rft, (rft, args.data, name, say))
        return 0
    if args.stage == "ego_mlp":
        from spanvla_ros.training.ego import EgoConfig, run_ego

        run_ego(configs.load(EgoConfig, args.config, args.overrides), args.data, name, say)
        return 0
    if args.stage == "ablation":
        from spanvla_ros.training.ablation import AblationConfig, run_ablation

        # overrides that follow the runs are taken for runs
        sources = [text for text in args.vlm if "=" not in text]
        overrides = [text for text in args.vlm if "=" in text] + args.overrides
        if not sources:
            raise ConfigError("--vlm names no run; give one stage-one run per seed")
        config = configs.load(AblationConfig, args.config, [f"expert.vlm={sources[0]}", *overrides])
        run_ablation(config, args.data, sources, name, say)
        return 0
    config = configs.load(VlmConfig, args.config, args.overrides)
    if args.stage == "tokenizer":
        say(str(ensure_tokenizer(config, config.load_codebook(args.config), args.data, runs() / name, say)))
        return 0
    launch(config.processes, run_vlm, (config, args.config, args.data, name, say))
    return 0


def say(text: str) -> None:
    """Progress goes to stdout at once, also into a pipe."""
    print(text)
    sys.stdout.flush()
