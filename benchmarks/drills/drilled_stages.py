"""The stages as the drills run them: commands of seconds on generated scenes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RANKER = "--ranker.width 16 --ranker.layers 1 --ranker.heads 2 --ranker.feed-forward 16"
SCENES = "--scenes.train {train} --scenes.val 30 --scenes.test 30 --scenes.folder {data}"
INPUTS = "--embeddings {embed} --lists {mine}"
CANDIDATES = "--random-candidates 25 --hard-negatives 12"


@dataclass(frozen=True)
class DrilledStage:
    """A stage and its command.

    Attributes:
        name: of its job.
        flags: of the command; names in braces stand for outputs of other stages and for the data's folder.
        manifest: folder of the manifest in the output.
        on_ray: whether its work is done by processes of the cluster.
        tracked: whether it logs to MLflow.
        begins: a fault comes when a piece is done whose path has this in it.
        share: a fault comes when this share of the pieces is done.
    """

    name: str
    flags: str
    manifest: str = "."
    on_ray: bool = True
    tracked: bool = True
    begins: str = ""
    share: float = 0.2

    def command(self, outputs: Mapping[str, Path | str], output: Path | str) -> list[str]:
        """The words of the command after the script."""
        return [word.format_map(outputs) for word in self.flags.split()] + ["--output", str(output)]


STAGES = {
    stage.name: stage
    for stage in (
        DrilledStage("embed", f"{SCENES.replace('{train}', '120')} --shard-size 16", tracked=False),
        DrilledStage("mine", f"--embeddings {{embed}} {CANDIDATES} --workers 2", tracked=False),
        DrilledStage(
            "train", f"{INPUTS} --losses listnet lambdarank --seeds 0 1 --epochs 12 {RANKER} --ranker.dropout 0.1"
        ),
        DrilledStage(
            "tune",
            f"{INPUTS} --space learning_rate=[0.003,0.001,0.0003] --repeats 0 --train.losses listnet lambdarank "
            f"--train.epochs 8 {RANKER.replace('--ranker', '--train.ranker')}",
            manifest="rankers",
        ),
        DrilledStage("evaluate", f"{INPUTS} --rankers {{train}}"),
        DrilledStage(
            "baselines",
            f"{INPUTS} --baselines cosine cca cmpm vsepp infonce --seeds 0 1 --cmpm.epochs 20 --vsepp.epochs 20 "
            "--infonce.epochs 20",
        ),
        DrilledStage(
            "supervised",
            "--data scenes={embed} --methods embeddings lcm dscmr clip4cmr --runs 0 1 2 --neighbours 10 "
            "--lcm.rounds 40 --dscmr.width 64 --dscmr.dimensions 32 --dscmr.epochs 60 --clip4cmr.dimensions 32 "
            "--clip4cmr.epochs 60 --tsne 0",
            manifest="results",
        ),
        DrilledStage(
            "rank",
            "--embeddings {embed} --queries {data}/queries.txt --ranker {train} --direction t2i --split train "
            "--top-n 50",
            tracked=False,
        ),
        DrilledStage(
            "train_encoder", "--images 128 --held-out 10 --epochs 8 --batch-size 32 --no-autocast", tracked=False
        ),
        DrilledStage(
            "experiment",
            f"--embed.shard-size 16 {SCENES.replace('{train}', '80').replace('--', '--embed.')} "
            f"{CANDIDATES.replace('--', '--mine.')} --train.losses listnet --train.seeds 0 1 --train.epochs 12 "
            f"{RANKER.replace('--', '--train.')} --register none",
            manifest="report",
            begins="rankers/",
            share=0.0,
        ),
        DrilledStage(
            "report",
            "--embeddings {embed} --rankers {train} --evaluation {evaluate} --examples 4",
            on_ray=False,
            tracked=False,
        ),
    )
}
