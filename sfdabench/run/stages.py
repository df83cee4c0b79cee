"""The stages of a run: what each is granted, and their artefacts."""

from __future__ import annotations

from pathlib import Path

from sfdabench.confine.client import Usage
from sfdabench.core.progress import Progress
from sfdabench.core.stage import Stage, digest
from sfdabench.evaluate.sealed import MaskSpec
from sfdabench.prepare.arrays import Prepared
from sfdabench.prepare.split import Split
from sfdabench.run import artefacts
from sfdabench.run.artefacts import Artefact
from sfdabench.run.grants import Granted, Grants
from sfdabench.run.plan import Run
from sfdabench.run.realise import realise

SOURCE_ROLES = frozenset({"source", "validation", "class ratio"})
LABELLED_ROLES = SOURCE_ROLES | {"target labels"}


class Stages:
    """Prepares the splits of a run and realises its stages, each once.

    force: methods adapt again although their artefacts are there; source stages do not.
    audits: whether the model of each epoch predicts the test images. threads: that stages are
    made on; the system's default where None. usage: of the processes that made stages or predicted.
    """

    def __init__(
        self, run: Run, progress: Progress, *, force: bool = False, audits: bool = True
    ) -> None:
        self.run, self.progress, self.force, self.audits = run, progress, force, audits
        self.threads: int | None = None
        self.usage = Usage()
        self.artefacts: dict[str, Artefact] = {}
        self._prepared: dict[str, Prepared] = {}

    def of(self, run: Run) -> Stages:
        """Return the stages of another run of the same splits; what was made is shared."""
        other = Stages(run, self.progress, audits=self.audits)
        other.threads = self.threads
        other.artefacts, other._prepared = self.artefacts, self._prepared
        return other

    def prepare(self) -> None:
        """Prepare the splits that will be read; the source only where a stage has to be made."""
        for stage in self._missing():
            for role in sorted(SOURCE_ROLES & stage.sees.keys()):
                for split, name in self._splits(role, stage):
                    self.arrays(split, name)
        self.arrays(self.run.target_train, "target")
        self.arrays(self.run.target_test, "target test")

    def _missing(self) -> list[Stage]:
        """The stages that look unmade, by their cards."""
        again = {stage.key for stage in self.run.links} if self.force else set()
        return [
            stage
            for stage in self.run.final.order
            if stage.key in again or not artefacts.exists(self.run.cache, stage)
        ]

    @property
    def target_test(self) -> Prepared:
        """The arrays of the test split."""
        return self.arrays(self.run.target_test, "target test")

    def arrays(self, split: Split, role: str) -> Prepared:
        """Return the arrays of a split; a progress bar names the role."""
        key = digest(split.inputs)
        if key not in self._prepared:
            self._prepared[key] = split.arrays(self.run.cache, self.progress, role)
        return self._prepared[key]

    def realise(self, stage: Stage) -> Artefact:
        """Return the artefact of a stage, or make it; the stages before it must be there."""
        if stage.key not in self.artefacts:
            self.artefacts[stage.key] = realise(
                stage,
                lambda: self._grants(stage),
                protocols=tuple(self.run.protocols) if self._predicts(stage) else (),
                cache=self.run.cache,
                device=self.run.device,
                progress=self.progress,
                threads=self.threads,
                usage=self.usage,
                force=self.force and stage.kind == "methods",
            )
        return self.artefacts[stage.key]

    def _predicts(self, stage: Stage) -> bool:
        """Whether its epochs predict the test images; a method that learns online has to."""
        return stage.kind == "methods" and (self.audits or "target test" in stage.sees)

    def test(self) -> Grants:
        """Return the grants of a process that only predicts the images of the test split."""
        return Grants(test=self._granted_test(), spec=self.spec, closed=self.closed)

    @property
    def spec(self) -> MaskSpec:
        """The masks that the run scores."""
        return MaskSpec.of(self.run.task, self.run.protocols)

    def _granted_test(self) -> Granted:
        return _granted(self.target_test, labels=False)

    def _grants(self, stage: Stage) -> Grants:
        """What a stage may read."""
        run = self.run
        splits = {
            role: tuple(
                _granted(self.arrays(split, name), labels=role in LABELLED_ROLES)
                for split, name in self._splits(role, stage)
            )
            for role in sorted(stage.sees.keys() - {"backbone"})
        }
        predicts, online = self._predicts(stage), "target test" in stage.sees
        return Grants(
            splits=splits,
            backbone=run.recipe.backbone_weights if "backbone" in stage.sees else None,
            test=self._granted_test() if predicts and not online else None,
            spec=self.spec if predicts else None,
            closed=self.closed,
        )

    def _splits(self, role: str, stage: Stage) -> list[tuple[Split, str]]:
        """The splits that a stage sees in a role, and what progress calls them."""
        run = self.run
        splits, name = {
            "source": (run.source_train, "source"),
            "class ratio": (run.source_train, "source"),
            "validation": (run.source_test, "source test"),
            "target": ((run.target_train,), "target"),
            "target labels": ((run.target_train,), "target"),
            "target test": ((run.target_test,), "target test"),
        }[role]
        seen = zip(splits, stage.sees[role], strict=True)
        return [(split.as_seen(inputs), name) for split, inputs in seen]

    @property
    def closed(self) -> tuple[Path, ...]:
        """The folders and files that no process of a stage may read but where it is granted them.

        They are the roots of the data, the cache and the results; and each file of a data set, so
        that it stays closed under another name.
        """
        run = self.run
        splits = [*run.source_train, *run.source_test, run.target_train, run.target_test]
        cases = [case for split in splits for case in split.cases]
        files = [path for case in cases for path in (*case.image, *case.label)]
        roots = {split.root for split in splits}
        return (run.cache, run.out, *sorted(roots), *files, *run.source_files)


def _granted(prepared: Prepared, *, labels: bool) -> Granted:
    return Granted(prepared.images_folder, prepared.labels_folder if labels else None)
