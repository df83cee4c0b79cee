"""The stages of a run: what each is granted, and their artefacts."""

from __future__ import annotations

from pathlib import Path

from sfdabench.core.progress import Progress
from sfdabench.core.stage import Stage, digest
from sfdabench.prepare.arrays import Prepared
from sfdabench.prepare.split import Split
from sfdabench.run import artefacts
from sfdabench.run.artefacts import Artefact
from sfdabench.run.plan import Run
from sfdabench.run.realise import Audit, Granted, Grants, realise

SOURCE_ROLES = frozenset({"source", "validation", "class ratio"})
LABELLED_ROLES = SOURCE_ROLES | {"target labels"}


class Stages:
    """Prepares the splits of a run and realises its stages, each once.

    force: methods adapt again although their artefacts are there; source stages do not.
    audits: whether the model of each epoch predicts the test images.
    """

    def __init__(
        self, run: Run, progress: Progress, *, force: bool = False, audits: bool = True
    ) -> None:
        self.run, self.progress, self.force, self.audits = run, progress, force, audits
        self.artefacts: dict[str, Artefact] = {}
        self._prepared: dict[str, Prepared] = {}

    def of(self, run: Run) -> Stages:
        """Return the stages of another run of the same splits; what was made is shared."""
        other = Stages(run, self.progress, audits=self.audits)
        other.artefacts, other._prepared = self.artefacts, self._prepared
        return other

    def prepare(self) -> None:
        """Prepare the splits that will be read; the source only where a stage has to be made."""
        if any(SOURCE_ROLES & stage.sees.keys() for stage in self._missing()):
            for role in ("source", "validation"):
                for split, name in self._splits(role):
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
                protocols=tuple(self.run.protocols) if self._audited(stage) else (),
                cache=self.run.cache,
                device=self.run.device,
                progress=self.progress,
                force=self.force and stage.kind == "methods",
            )
        return self.artefacts[stage.key]

    def _audited(self, stage: Stage) -> bool:
        """Whether its epochs predict the test images; a method that learns online has to."""
        return stage.kind == "methods" and (self.audits or "target test" in stage.sees)

    def _grants(self, stage: Stage) -> Grants:
        """What a stage may read."""
        run = self.run
        splits = {
            role: tuple(
                _granted(self.arrays(split, name), labels=role in LABELLED_ROLES)
                for split, name in self._splits(role)
            )
            for role in sorted(stage.sees.keys() - {"backbone"})
        }
        audit = None
        if self._audited(stage):
            audit = Audit(run.task, run.protocols, _granted(self.target_test, labels=False))
        return Grants(
            splits=splits,
            backbone=run.recipe.backbone_weights if "backbone" in stage.sees else None,
            audit=audit,
            closed=self._closed(stage),
        )

    def _splits(self, role: str) -> list[tuple[Split, str]]:
        """The splits behind a role of `Stage.sees`, and what progress calls them."""
        run = self.run
        return {
            "source": [(split, "source") for split in run.source_train],
            "class ratio": [(split, "source") for split in run.source_train],
            "validation": [(split, "source test") for split in run.source_test],
            "target": [(run.target_train, "target")],
            "target labels": [(run.target_train, "target")],
            "target test": [(run.target_test, "target test")],
        }[role]

    def _closed(self, stage: Stage) -> list[Path]:
        """What the guard refuses while a method adapts: all arrays, and files of the data sets.

        The folders that the stage is granted stay open (`Grants.splits`).
        """
        if stage.kind != "methods":
            return []
        run = self.run
        paths = [run.cache / "prepared", *artefacts.roots(run.cache), *run.source_files]
        paths += [p for case in run.target_test.cases for p in case.label]
        if "target labels" not in stage.sees:
            paths += [p for case in run.target_train.cases for p in case.label]
        if "source" not in stage.sees:
            splits = [*run.source_train, *run.source_test]
            paths += [p for s in splits for case in s.cases for p in (*case.image, *case.label)]
        # A file may serve both roles (one data set as source and target): what the method was
        # given stays open.
        given = {p for case in run.target_train.cases for p in case.image}
        return [path for path in paths if path not in given]


def _granted(prepared: Prepared, *, labels: bool) -> Granted:
    return Granted(prepared.images_folder, prepared.labels_folder if labels else None)
