"""Samples of a run, from all its sources, and the loaders that draw them.

Everything random in a sample comes from (seed, stream, index), so a run repeats, a stopped run goes on with
the samples that it would have seen, and ranks never share one.
"""

import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import lightning
import numpy as np
import torch
from numpy.random import Generator
from torch.utils.data import DataLoader, Dataset, Sampler

from training.cache import Scan, cached_names, load_label_maps, load_scans
from training.chain import LEFT_OUT
from training.config import AS_THEY_ARE, SamplingConfig, SourceShares, TrainConfig
from training.pool import PoolLoader, SamplePool
from training.real.augment import Centre, draw_scan_sample
from training.synthetic import TRAINING, VALIDATION, Sample, SyntheticPatients, normalise_hu

log = logging.getLogger("training")
FOLDS = 10
WORKER_CONTEXT = "fork"
"""Workers see the scans of the process that started them; any other way each gets a copy, a gigabyte."""
POOL_VOXELS, GROUP_VOXELS = 7 * 10**8, 2 * 10**6
"""Of a GPU's pool of samples: 2 GB; 500 whole ROIs of 112³ voxels. And of the group that comes at once."""
WORKER_NICENESS = 10
"""Workers that fill a pool take the time that the training processes leave."""


class RealScans(Dataset[Sample]):
    """An endless set of samples from real scans.

    Args:
        scans: to draw from, each as often as the others.
        config: of the run.
        painted_share: of samples with lesions painted into the kidneys.
    """

    def __init__(self, scans: Sequence[Scan], config: TrainConfig, *, painted_share: float = 0.0) -> None:
        self.scans, self.config, self.painted_share = scans, config, painted_share
        self.with_tumor = [scan for scan in scans if scan.tumor_voxels.size]
        _check_spacing(scans, config.roi.spacing_mm, is_resampled=True)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.config.seed, TRAINING, index, 1])
        pick = int(rng.integers(len(self.scans)))
        centre, painted = self._centre(rng), rng.random() < self.painted_share
        # few scans show a tumor: where one is wanted, it comes from those
        scans = self.with_tumor if centre == "tumor" and not painted and self.with_tumor else self.scans
        hu, labels, inside = draw_scan_sample(
            scans[pick % len(scans)],
            rng,
            self.config.scans,
            shape_vox=self.config.shape_vox,
            spacing_mm=self.config.roi.spacing_mm,
            centre=centre,
            painted=painted,
        )
        return normalise_hu(hu, inside, self.config.roi)[None], labels

    def _centre(self, rng: Generator) -> Centre:
        if self.config.crop_vox is None:
            return "scan"
        shares = self.config.sampling.centres
        kinds: tuple[Centre, ...] = ("kidney", "tumor", "kidney", "anywhere")
        kind = rng.choice(4, p=np.asarray([shares.kidney, shares.tumor, shares.border, shares.elsewhere]))
        return kinds[int(kind)]


class Mixture(Dataset[Sample]):
    """Samples of several sources in fixed shares.

    Args:
        sources: each with its share.
        seed: of the choice.
    """

    def __init__(self, sources: Sequence[tuple[float, Dataset[Sample]]], *, seed: int) -> None:
        total = sum(share for share, _ in sources)
        self.shares = [share / total for share, _ in sources]
        self.sources, self.seed = [source for _, source in sources], seed

    def source(self, index: int) -> Dataset[Sample]:
        """Which source this sample comes from."""
        rng = np.random.default_rng([self.seed, index, 2])
        return self.sources[int(rng.choice(len(self.shares), p=self.shares))]

    def __getitem__(self, index: int) -> Sample:
        return self.source(index)[index]


class CachedSamples(Dataset[Sample]):
    """The first samples of another data set, made once and kept in memory (images in half precision)."""

    def __init__(self, source: Dataset[Sample]) -> None:
        self.source = source
        self.samples: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        if index not in self.samples:
            image, labels = self.source[index]
            self.samples[index] = (image.half().cpu(), labels.cpu())
        image, labels = self.samples[index]
        return image.float(), labels


def groups(
    samples: Dataset[Sample], indices: Iterable[int], *, size: int, workers: int
) -> DataLoader[Sample]:
    """Groups of samples for a pool, images in half precision: few and small messages between processes.

    Args:
        samples: what is drawn from.
        indices: of the samples, without end.
        size: of a group.
        workers: processes, at a lower priority.
    """
    return DataLoader(
        samples,
        batch_size=size,
        sampler=indices,  # type: ignore[arg-type]  # nobody asks an endless stream for its length
        num_workers=workers,
        collate_fn=_half_precision,
        worker_init_fn=_be_nice,
        prefetch_factor=2,
        multiprocessing_context=WORKER_CONTEXT,
    )


def _half_precision(samples: Sequence[Sample]) -> Sample:
    return torch.stack([image.half() for image, _ in samples]), torch.stack([labels for _, labels in samples])


def _be_nice(worker: int) -> None:
    os.nice(WORKER_NICENESS)


class EpochSampler(Sampler[int]):
    """Indices of one epoch on one rank: no index is used twice in a run, by no rank.

    Args:
        n_samples: of one epoch on this rank.
        rank, world_size: of this process.
        repeats: validation: every epoch sees the same indices.
    """

    def __init__(self, n_samples: int, *, rank: int = 0, world_size: int = 1, repeats: bool = False) -> None:
        self.n_samples, self.rank, self.world_size, self.repeats = n_samples, rank, world_size, repeats
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells the epoch, a resumed one too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_samples

    @property
    def first(self) -> int:
        """The epoch's first index on this rank; the others follow in steps of `world_size`."""
        return self.rank + (0 if self.repeats else self.epoch * self.n_samples * self.world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.first + self.n_samples * self.world_size, self.world_size))


def split_cases(
    names: Sequence[str], *, fold: int, seed: int, folds: int = FOLDS
) -> tuple[list[str], list[str]]:
    """90 % for training and 10 % for validation, by case (paper, section 2.4).

    Args:
        names: of all cases.
        fold: 0 … `folds` − 1; over all folds every case is validated on once.
        seed: of the shuffle.
        folds: how many.
    """
    shuffled = np.random.default_rng(seed).permutation(np.asarray(sorted(names))).tolist()
    held_out = set(shuffled[fold::folds]) if len(shuffled) > 1 else set()
    if not held_out and len(shuffled) > 1:
        held_out = {shuffled[fold % len(shuffled)]}
    return [n for n in sorted(names) if n not in held_out], sorted(held_out) or list(names)


def _check_spacing(scans: Sequence[Scan], wanted_mm: float, *, is_resampled: bool) -> None:
    """Refuse scans that were prepared on another grid than the network's; resampled ones may be finer."""
    for scan in scans:
        if scan.spacing_mm == wanted_mm or (is_resampled and scan.spacing_mm < wanted_mm):
            continue
        fault = "coarser" if scan.spacing_mm > wanted_mm else "finer"
        reason = "" if is_resampled else ", and validation takes it as it is"
        raise ValueError(
            f"{scan.name}: was prepared at {scan.spacing_mm} mm, {fault} than the network's {wanted_mm} mm"
            f"{reason}. Prepare another cache with --spacing-mm {wanted_mm}"
        )


class Patients(lightning.LightningDataModule):
    """Training and validation samples of a run.

    Where the cache holds real scans, validation is on those alone that training does not see: the ones set
    aside, and with a fold the labelled ones that it holds out. Nor does training see another scan of their
    cases. Otherwise validation is on synthetic CTs.

    Args:
        config: of the run.
        cache: from `prepare`; None synthesises the kidneys too.
        fold: (k, n): the k-th of n parts of the cases is held out; None trains on all labelled scans.
        workers: processes that make samples ahead; 0: the main process makes them, on its device.

    Raises:
        ValueError: scans to validate on lie on another grid than the network's, and on none that is a whole
            number of times finer; training's may be finer.
            Or the stage is the tumor's, and none of them shows a kidney.
    """

    def __init__(
        self,
        config: TrainConfig,
        cache: Path | None,
        *,
        fold: tuple[int, int] | None = (0, FOLDS),
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.cache, self.workers = config, cache, workers
        self._pool: SamplePool | None = None
        names = cached_names(cache) if cache else []
        scans = load_scans(cache) if cache else []
        k, n = fold or (0, FOLDS)
        labelled = sorted({s.case for s in scans if s.has_kidney and not s.is_slice and s.role == "train"})
        held_out: set[str] = set()
        if fold and len(labelled) > 1:
            held_out = set(split_cases(labelled, fold=k, seed=config.split_seed, folds=n)[1])
        self.validation_scans = [
            s.on_grid(config.roi.spacing_mm)
            for s in scans
            if s.role == "set_aside" or (s.case in held_out and not s.is_slice)
        ]
        _check_spacing(self.validation_scans, config.roi.spacing_mm, is_resampled=False)
        shows_kidneys = any(s.has_kidney for s in self.validation_scans)
        if config.stage == "tumor" and self.validation_scans and not shows_kidneys:
            raise ValueError(
                f"{cache}: no scan to validate on shows a kidney, and tumors are scored in kidneys alone. "
                "Hold out labelled scans with --fold K/N, or set one aside"
            )
        # no scan, no slice and no CT synthesised around the label map may show a case that is validated on;
        # the cases left out are in whole scans alone, which folds hold out
        validated = {s.case for s in self.validation_scans}
        tested = validated | set(LEFT_OUT)
        self.scans = [
            s for s in scans if s.role == "train" and s.case not in (tested if s.is_slice else validated)
        ]
        self.map_names = [name for name in names if name not in tested]
        self.validation_maps: list[str] = []
        if not self.validation_scans:
            self.map_names, self.validation_maps = split_cases(
                self.map_names, fold=k, seed=config.split_seed, folds=n
            )
        self.training_names = sorted({*self.map_names, *(s.name for s in self.scans)})
        self.validation_names = sorted(s.name for s in self.validation_scans) or self.validation_maps

    def train_dataloader(self) -> DataLoader[Sample] | PoolLoader:
        """Fresh samples in every epoch; on a GPU with workers, some more than once."""
        steps, mixture = self.config.steps_per_epoch, self._mixture()
        device = self.trainer.strategy.root_device if self.trainer else None
        if device is None or device.type != "cuda" or not self.workers:
            return self._loader(mixture, steps, repeats=False, workers=self.workers)
        config, sampler = self.config, self._sampler(steps, repeats=False)
        n_voxels = math.prod(config.shape_vox)
        indices = itertools.count(sampler.first, sampler.world_size)
        self._pool = SamplePool(
            groups(mixture, indices, size=max(1, GROUP_VOXELS // n_voxels), workers=self.workers),
            config.shape_vox,
            capacity=POOL_VOXELS // n_voxels,
            device=device,
            mirror=config.mirror,
            seed=config.seed + sampler.first,
        )
        return PoolLoader(self._pool, steps, config.batch_size)

    def teardown(self, stage: str) -> None:
        """Stop the worker processes."""
        if self._pool is not None:
            self._pool.close()

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """The same held-out samples in every epoch; none where whole scans are validated on instead."""
        if self.validation_scans:
            return []
        sampling = replace(AS_THEY_ARE, centres=self.config.sampling.centres)
        patients = CachedSamples(self._synthetic(self.validation_maps, VALIDATION, sampling))
        return self._loader(patients, self.config.validation_steps, repeats=True, workers=0)

    def _mixture(self) -> Mixture:
        config = self.config
        kinds = {
            "labelled": [s for s in self.scans if s.has_kidney and not s.is_slice],
            "background": [s for s in self.scans if not s.has_kidney],
            "slices": [s for s in self.scans if s.is_slice and s.has_kidney],
        }
        shares: SourceShares = config.sources
        sources: list[tuple[float, Dataset[Sample]]] = []
        if shares.synthetic:
            sources.append((shares.synthetic, self._synthetic(self.map_names, TRAINING, config.sampling)))
        for share, kind, painted in (
            (shares.labelled, "labelled", 0.0),
            (shares.painted, "labelled", 1.0),
            (shares.background, "background", 0.0),
            (shares.slices, "slices", 0.5),
        ):
            if share and kinds[kind]:
                sources.append((share, RealScans(kinds[kind], config, painted_share=painted)))
            elif share:
                log.warning("the cache holds no %s scans: their share goes to the other sources", kind)
        if not sources:
            raise ValueError(f"nothing to train on: {asdict(shares)}. Give a cache that holds such scans")
        return Mixture(sources, seed=config.seed)

    def _synthetic(self, names: list[str], stream: int, sampling: SamplingConfig) -> SyntheticPatients:
        maps = list(load_label_maps(self.cache, names)) if self.cache else []
        device = self.trainer.strategy.root_device if self.trainer and not self.workers else None
        return SyntheticPatients(maps, self.config, sampling, stream=stream, device=device)

    def _sampler(self, steps: int, *, repeats: bool) -> EpochSampler:
        sampler = EpochSampler(steps * self.config.batch_size, repeats=repeats)
        if self.trainer:
            sampler.rank, sampler.world_size = self.trainer.global_rank, self.trainer.world_size
            # workers draw a resumed run's first epoch before Lightning says, or knows, which one it is
            sampler.set_epoch(self.trainer.global_step // self.config.steps_per_epoch)
        return sampler

    def _loader(
        self, patients: Dataset[Sample], steps: int, *, repeats: bool, workers: int
    ) -> DataLoader[Sample]:
        return DataLoader(
            patients,
            batch_size=self.config.batch_size,
            sampler=self._sampler(steps, repeats=repeats),
            num_workers=workers,
            multiprocessing_context=WORKER_CONTEXT if workers else None,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
        )
